"""Schedules where runs must be signed: they act for their creators only."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from skillfleet.contracts import TokenUse, call_digest
from skillfleet.errors import InvalidArgumentsError, UnauthorizedError
from skillfleet.ports.admission import IncomingCall
from skillfleet_auth.signing import Signing
from skillfleet_ledger import Settings
from skillfleet_producer import AsyncFleet, Fleet
from tests.auth.conftest import StartWorker
from tests.auth.keys import Keys
from tests.auth.test_inputs import admission_of
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

SHARD = "{skillfleet:0}:"
TASK, ARGS = "gate.whoami", {"note": "hi"}


def last_end(fleet: Fleet, name: str) -> Any:
    """The first run of a schedule, once it has ended."""

    def ended() -> Any:
        runs = [run for run in fleet.runs(limit=100) if run.id == last_run(fleet, name)]
        return runs[0] if runs and runs[0].state.terminal else None

    return wait_until(ended, 30, f"a run of {name}")


def last_run(fleet: Fleet, name: str) -> str | None:
    return next(each for each in fleet.schedules() if each.name == name).last_run


def test_a_run_that_is_due_acts_for_the_creator_of_the_schedule(fleet: Fleet) -> None:
    claims = ADA | {"tenant": "acme"}
    fleet.schedule("mine", TASK, ARGS, every=1, auth=claims)
    status = last_end(fleet, "mine")
    assert fleet.unschedule("mine")
    caller = fleet.run(status.id).result(timeout=10)
    assert (caller["sub"], set(caller["scopes"])) == (ADA["sub"], set(ADA["scopes"]))


def test_it_may_call_others_on_that_callers_behalf(fleet: Fleet) -> None:
    fleet.schedule("calling", "gate.calls", {"skill": "whoami", "depth": 1}, every=1, auth=ADA)
    status = last_end(fleet, "calling")
    assert fleet.unschedule("calling")
    assert fleet.run(status.id).result(timeout=10)["sub"] == ADA["sub"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("args", b'{"note":"other"}'),
        ("skill", b"gate.reads"),
        ("delegation", b"a.b.c"),
    ],
)
def test_who_has_no_key_cannot_change_what_it_does(
    guarded: ValkeyServer, fleet: Fleet, field: str, value: bytes
) -> None:
    fleet.schedule("changed", "gate.whoami", {"note": "hi"}, every=1, auth=ADA)
    with guarded.client() as client:
        client.hset(f"{SHARD}schedule:changed", field, value)
        client.hset(f"{SHARD}schedule:changed", "args", value if field == "args" else b"{}")
    status = last_end(fleet, "changed")
    assert fleet.unschedule("changed")
    assert (status.state, status.code) == ("failed", "unauthorized")
    assert "schedule" in (status.message or "")


def test_who_has_no_key_cannot_change_for_whom_it_acts(guarded: ValkeyServer, fleet: Fleet) -> None:
    fleet.schedule("other", TASK, ARGS, every=1, auth=ADA)
    options = orjson.dumps({"auth": {"sub": "root", "scopes": ["admin"]}})
    with guarded.client() as client:
        client.hset(f"{SHARD}schedule:other", "options", options)
    status = last_end(fleet, "other")
    assert fleet.unschedule("other")
    assert fleet.run(status.id).result(timeout=10)["sub"] == ADA["sub"]


def test_without_a_delegation_nothing_is_enqueued(guarded: ValkeyServer, fleet: Fleet) -> None:
    fleet.schedule("unsigned", TASK, ARGS, every=1, auth=ADA)
    with guarded.client() as client:
        client.hset(f"{SHARD}schedule:unsigned", "delegation", "")
    problem = wait_until(
        lambda: next(s for s in fleet.schedules() if s.name == "unsigned").problem, 30
    )
    assert fleet.unschedule("unsigned")
    assert "signed schedules only" in (problem or "")


def test_a_worker_without_a_key_says_so(
    server: ValkeyServer, keys: Keys, start_worker: StartWorker
) -> None:
    settings = keys.worker_settings() | {"reap_seconds": 0.2}
    del settings["auth_signing_key_file"]
    start_worker("tests.auth.agents", **settings)
    with Fleet(settings=keys.settings(server.producer_url)) as fleet:
        fleet.schedule("keyless", TASK, ARGS, every=1, auth=ADA)
        problem = wait_until(lambda: fleet.schedules()[0].problem, 30, "the problem")
        assert "SKILLFLEET_AUTH_SIGNING_KEY_FILE" in (problem or "")
        assert fleet.runs() == []


def test_a_schedule_needs_a_key_and_a_run_now_a_caller(valkey: ValkeyServer, keys: Keys) -> None:
    keyless = Settings.load(redis_url=valkey.url, auth="required")
    with Fleet(settings=keyless) as fleet:
        with pytest.raises(UnauthorizedError, match="signed schedules only"):
            fleet.schedule("s", "gate.whoami", every=60)
        assert fleet.schedules() == []
    with Fleet(settings=keys.settings(valkey.url)) as fleet:
        fleet.schedule("s", "gate.whoami", every=60, auth=ADA)
        with pytest.raises(UnauthorizedError, match=r"enqueue gate\.whoami as yourself"):
            fleet.run_schedule("s")
        with pytest.raises(InvalidArgumentsError, match="limit for a schedule"):
            fleet.schedule("s", "gate.whoami", every=60, auth=ADA | {"big": "x" * 5000})
        most = ADA | {"big": "x" * 3700}
        fleet.schedule("s", "gate.whoami", every=60, auth=most)


@pytest.fixture
async def factory(keys: Keys, valkey: ValkeyServer) -> AsyncIterator[TokenFactory]:
    factory = TokenFactory(valkey.url, keys)
    yield factory
    await factory.fleet.close()


def delegation(keys: Keys, name: str = "backend", args: dict[str, Any] | None = None) -> str:
    signing = Signing(keys.settings("redis://127.0.0.1:1/0", name))
    return signing.delegation("s", TASK, ARGS if args is None else args, ADA)


async def admitted(
    keys: Keys, factory: TokenFactory, key: str = "worker", **claims: Any
) -> dict[str, Any]:
    """Who is admitted with a token of a run that is due, with these claims."""
    new = await factory.prepare(TASK, ARGS)
    token = factory.token(new, key, **({"use": TokenUse.FIRED, "sub": "root"} | claims))
    call = IncomingCall(new.id, TASK, ARGS, None, token, None, new.id, 0, plain=False)
    async with admission_of(keys, factory.fleet.settings.redis_url) as admission:
        return dict(await admission.admit(call) or {})


async def test_the_delegation_says_who_it_is(keys: Keys, factory: TokenFactory) -> None:
    caller = await admitted(keys, factory, delegation=delegation(keys), scopes=["admin"])
    assert caller == {**ADA, "scopes": list(ADA["scopes"])}


async def test_no_token_is_taken_for_another(keys: Keys, factory: TokenFactory) -> None:
    good = delegation(keys)
    forged: list[tuple[str, dict[str, Any], str]] = [
        ("worker", {"delegation": None}, "no token"),
        ("worker", {"delegation": "a.b.c"}, "not valid"),
        ("worker", {"delegation": delegation(keys, "untrusted")}, "not trusted"),
        ("worker", {"delegation": delegation(keys, "worker")}, "not trusted"),
        ("worker", {"delegation": delegation(keys, args={})}, "other arguments"),
        ("backend", {"delegation": good}, "not trusted"),
        ("worker", {"delegation": good, "depth": 1}, "another position"),
        ("backend", {"use": TokenUse.SCHEDULE}, "not for this use"),
        ("worker", {"delegation": good, "exp": 1_700_000_000}, "expired"),
        ("worker", {"delegation": good, "run": "another"}, "another run"),
    ]
    new = await factory.prepare(TASK, ARGS)
    for use in (TokenUse.RUN, TokenUse.INPUT):
        own = factory.token(new, "backend", use=use)
        forged.append(("worker", {"delegation": own}, "other arguments|not valid"))
    for key, claims, problem in forged:
        with pytest.raises(UnauthorizedError, match=problem):
            await admitted(keys, factory, key, **claims)


async def test_a_delegation_outlasts_every_token(
    keys: Keys, factory: TokenFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillfleet_auth.signing.time.time", lambda: 1_000_000_000.0)
    old = delegation(keys)
    monkeypatch.undo()
    assert (await admitted(keys, factory, delegation=old))["sub"] == ADA["sub"]
    assert call_digest(TASK, ARGS)


async def test_claims_of_a_schedule_are_not_shown(keys: Keys, valkey: ValkeyServer) -> None:
    async with AsyncFleet(settings=keys.settings(valkey.url)) as fleet:
        made = await fleet.schedule("s", "gate.whoami", every=60, auth=ADA | {"tenant": "hidden"})
        assert "hidden" not in made.model_dump_json()
