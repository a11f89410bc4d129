"""Attacks on a fleet that takes signed runs only: each is refused before a handler starts."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from celery import Celery

from skillfleet.contracts import HEADER, TOKEN_HEADER, RunState, call_digest
from skillfleet.errors import InvalidArgumentsError, RunFailed, UnauthorizedError
from skillfleet_ledger.runs.records import Submission
from skillfleet_producer import AsyncFleet, Fleet, Settings
from skillfleet_producer.message import envelope
from skillfleet_producer.submission import invocation_from
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.valkey import ValkeyServer


@pytest.fixture
async def factory(guarded: ValkeyServer, keys: Keys) -> AsyncIterator[TokenFactory]:
    factory = TokenFactory(guarded.url, keys)
    yield factory
    await factory.fleet.close()


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(factory: TokenFactory, new: Submission) -> str:
    return f"{part({'alg': 'none', 'kid': 'backend'})}.{part(factory.claims(new))}."


def confused(factory: TokenFactory, new: Submission) -> str:
    """The public key, which everybody may know, taken as the secret of an HMAC."""
    import hashlib
    import hmac

    public = (factory.keys.producers / "backend.pem").read_bytes()
    text = f"{part({'alg': 'HS256', 'kid': 'backend'})}.{part(factory.claims(new))}"
    mac = hmac.new(public, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def tampered(factory: TokenFactory, new: Submission) -> str:
    head, _, signature = factory.token(new).split(".")
    return f"{head}.{part(factory.claims(new, scopes=['admin']))}.{signature}"


def for_other_arguments(factory: TokenFactory, new: Submission) -> str:
    return factory.token(new, call=call_digest(new.task, {"journal": "/other"}))


Forgery = Callable[[TokenFactory, Submission], str | None]
ATTACKS: dict[str, tuple[Forgery, str]] = {
    "no token": (lambda factory, new: None, "no token of"),
    "no token at all, but text": (lambda factory, new: "not a token", "not valid"),
    "expired": (lambda factory, new: factory.token(new, exp=1_700_000_000), "expired"),
    "wrong audience": (lambda factory, new: factory.token(new, aud="other"), "another fleet"),
    "wrong issuer": (lambda factory, new: factory.token(new, iss="other"), "another issuer"),
    "unknown key": (lambda factory, new: factory.token(new, "untrusted"), "not trusted"),
    "alg none": (unsigned, "not signed with EdDSA"),
    "alg confused": (confused, "not signed with EdDSA"),
    "tampered": (tampered, "not valid"),
    "other run": (lambda factory, new: factory.token(new, run="another"), "another run"),
    "other arguments": (for_other_arguments, "other arguments"),
    "a worker's key used by a producer": (
        lambda factory, new: factory.token(new, "worker"),
        "not trusted",
    ),
    "a worker's key for a call of an unknown run": (
        lambda factory, new: factory.token(new, "worker", use="call"),
        "not for this use",
    ),
    "an unknown claim": (lambda factory, new: factory.token(new, admin=1), "not valid"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_run_with_a_bad_token_ends_unauthorized_and_its_handler_never_starts(
    factory: TokenFactory, attack: str, tmp_path: Path
) -> None:
    make_token, word = ATTACKS[attack]
    journal = tmp_path / "started"
    new = await factory.prepare("gate.marks", {"journal": str(journal)})
    token = make_token(factory, new)
    run = await factory.submit(new, token)
    status = await factory.end_of(run)
    assert (status.state, status.code) == (RunState.FAILED, "unauthorized")
    assert (status.attempt, status.started_at) == (0, None)
    assert word in (status.message or "")
    assert not journal.exists()
    if token is not None:
        parts = [part for part in token.split(".") if len(part) > len("not a token")]
        reported = str([event.payload async for event in run.events()])
        assert not any(part in reported for part in parts)


async def test_the_same_submission_with_a_good_token_runs(
    factory: TokenFactory, tmp_path: Path
) -> None:
    new = await factory.prepare("gate.marks", {"journal": str(tmp_path / "started")})
    run = await factory.submit(new, factory.token(new))
    assert await run.result(timeout=20) == "marked"


async def test_an_oversized_token_is_refused(factory: TokenFactory) -> None:
    new = await factory.prepare("gate.whoami", {})
    status = await factory.end_of(await factory.submit(new, "x" * 10_000))
    assert status.code == "unauthorized"


async def test_an_oversized_header_is_refused_with_a_good_token(factory: TokenFactory) -> None:
    new = await factory.prepare("gate.whoami", {})
    headers = orjson.loads(new.headers)
    headers[HEADER] |= {"more": "x" * 20_000}
    new = replace(new, headers=orjson.dumps(headers))
    status = await factory.end_of(await factory.submit(new, factory.token(new)))
    assert status.state is RunState.FAILED
    assert "larger than" in (status.message or "")


async def test_a_strangers_message_for_a_run_does_not_end_the_run(
    factory: TokenFactory, fleet: Fleet
) -> None:
    """The queued run's own message comes later: the untrusted one is dropped."""
    new = await factory.prepare("gate.whoami", {"note": "mine"})
    token = factory.token(new)
    headers = orjson.dumps(orjson.loads(new.headers) | {TOKEN_HEADER: token})
    own = replace(new, headers=headers)
    strange = envelope(invocation_from(replace(new, args=b'{"note": "yours"}')))
    await factory.fleet.ledger.submissions.submit(own, strange)
    assert (await factory.fleet.run(new.id).result(timeout=20))["sub"] == "ada"


async def test_a_token_replayed_on_other_arguments_in_the_message_does_nothing(
    factory: TokenFactory, tmp_path: Path
) -> None:
    journal = tmp_path / "started"
    new = await factory.prepare("gate.whoami", {"note": "mine"})
    run = await factory.submit(new, factory.token(new))
    await run.result(timeout=20)
    other = await factory.prepare("gate.marks", {"journal": str(journal)})
    status = await factory.end_of(await factory.submit(other, factory.token(new)))
    assert status.code == "unauthorized"
    assert not journal.exists()


def test_scopes_are_enforced_before_the_handler_and_inside_it(fleet: Fleet, tmp_path: Path) -> None:
    journal = tmp_path / "started"
    run = fleet.enqueue("gate.reads", {"journal": str(journal)}, auth={"sub": "eve"})
    with pytest.raises(RunFailed, match="files:read") as refused:
        run.result(timeout=20)
    assert refused.value.code == "missing_scopes"
    assert not journal.exists()
    assert fleet.enqueue("gate.reads", auth=ADA).result(timeout=20) == "read"
    with pytest.raises(RunFailed) as inside:
        fleet.enqueue("gate.asks_inside", auth=ADA).result(timeout=20)
    assert inside.value.code == "missing_scopes"


def test_the_auth_model_is_built_from_the_verified_claims(fleet: Fleet) -> None:
    auth = {"sub": "ada", "scopes": ["b", "a"], "org_id": "acme", "unknown": 1}
    seen = fleet.enqueue("gate.whoami", auth=auth).result(timeout=20)
    assert seen == {"sub": "ada", "org_id": "acme", "email": None, "scopes": ["b", "a"]}


def test_claims_that_do_not_fit_the_auth_model_end_the_run_unauthorized(fleet: Fleet) -> None:
    with pytest.raises(RunFailed, match="email") as refused:
        fleet.enqueue("gate.whoami", auth={"sub": "ada", "email": 7}).result(timeout=20)
    assert refused.value.code == "unauthorized"


async def test_claims_in_the_unsigned_header_are_not_believed(factory: TokenFactory) -> None:
    new = await factory.prepare("gate.whoami", {})
    headers = orjson.loads(new.headers)
    headers[HEADER] |= {"auth": {"sub": "root", "scopes": ["admin"]}}
    run = await factory.submit(replace(new, headers=orjson.dumps(headers)), factory.token(new))
    seen = await run.result(timeout=20)
    assert (seen["sub"], seen["scopes"]) == ("ada", ["files:read"])


def test_a_called_run_has_its_callers_identity_and_scopes(fleet: Fleet) -> None:
    run = fleet.enqueue("gate.calls", {"skill": "whoami", "depth": 3}, auth=ADA)
    assert run.result(timeout=20) == {
        "sub": "ada",
        "org_id": None,
        "email": None,
        "scopes": ["files:read"],
    }


def test_a_called_run_cannot_do_what_its_caller_could_not(fleet: Fleet) -> None:
    run = fleet.enqueue("gate.calls", {"skill": "reads"}, auth={"sub": "eve"})
    with pytest.raises(RunFailed, match="files:read") as refused:
        run.result(timeout=20)
    assert refused.value.code == "missing_scopes"


def test_an_agent_without_scopes_of_its_own_hands_none_on(fleet: Fleet) -> None:
    seen = fleet.enqueue("open.relays", {"skill": "whoami"}, auth=ADA).result(timeout=20)
    assert (seen["sub"], seen["scopes"]) == ("ada", [])


CHILDREN: dict[str, tuple[dict[str, Any], str | None]] = {
    "as narrow": ({"scopes": ["files:read"]}, None),
    "scopes widened": ({"scopes": ["files:read", "admin"]}, "scopes that the calling run"),
    "another subject": ({"sub": "root"}, "another caller"),
    "another claim": ({"claims": {"org_id": "acme"}}, "another caller"),
    "another position": ({"depth": 2}, "another position"),
}


@pytest.mark.parametrize("attack", CHILDREN)
async def test_a_worker_can_only_sign_for_the_runs_of_its_own_runs_and_never_wider(
    factory: TokenFactory, attack: str
) -> None:
    changes, word = CHILDREN[attack]
    parent_new = await factory.prepare("gate.waits", {})
    parent = await factory.submit(parent_new, factory.token(parent_new))
    async for event in parent.events(timeout=20):
        if event.kind == "progress":
            break
    new = await factory.child(parent, "gate.whoami")
    place = {"parent": parent.id, "root": parent.id, "depth": 1}
    token = factory.token(new, "worker", use="call", **(place | changes))
    status = await factory.end_of(await factory.submit(new, token))
    await parent.cancel()
    if word is None:
        assert status.state is RunState.SUCCEEDED
    else:
        assert (status.code, word in (status.message or "")) == ("unauthorized", True)


async def test_a_worker_cannot_sign_for_a_caller_that_does_not_exist(factory: TokenFactory) -> None:
    new = await factory.prepare("gate.whoami", {})
    unknown = factory.fleet.run("unknown")
    new = await factory.child(unknown, "gate.whoami")
    new = replace(new, parent_id="unknown", root_id="unknown")
    place = {"parent": "unknown", "root": "unknown", "depth": 1}
    token = factory.token(new, "worker", use="call", **place)
    headers = orjson.dumps(orjson.loads(new.headers) | {TOKEN_HEADER: token})
    await factory.fleet.ledger.submissions.submit(replace(new, parent_id=None, headers=headers))
    message = envelope(invocation_from(replace(new, headers=headers)))
    queue = factory.fleet.ledger.keys.broker_list("celery", 0)
    await factory.fleet.ledger.connection.execute("LPUSH", queue, message)
    status = await factory.end_of(factory.fleet.run(new.id))
    assert (status.code, "unknown calling run" in (status.message or "")) == ("unauthorized", True)


async def test_a_plain_celery_client_needs_a_token_too(
    guarded: ValkeyServer, factory: TokenFactory
) -> None:
    app = Celery(broker=guarded.url, set_as_current=False)
    try:
        new = replace(await factory.prepare("gate.reads", {}), args=b"{}")
        good = app.send_task(
            "gate.reads", task_id=new.id, headers={TOKEN_HEADER: factory.token(new)}
        )
        status = await factory.end_of(factory.fleet.run(good.id))
        assert status.state is RunState.SUCCEEDED
        bad = app.send_task("gate.reads", kwargs={})
        status = await factory.end_of(factory.fleet.run(bad.id))
        assert status.code == "unauthorized"
    finally:
        app.close()


def test_without_a_key_to_sign_with_enqueue_itself_refuses(guarded: ValkeyServer) -> None:
    settings = Settings.load(redis_url=guarded.producer_url, auth="required")
    with (
        Fleet(settings=settings) as fleet,
        pytest.raises(UnauthorizedError, match="SKILLFLEET_AUTH_SIGNING_KEY_FILE"),
    ):
        fleet.enqueue("gate.whoami")


def test_claims_that_make_a_token_too_large_are_refused_at_enqueue(fleet: Fleet) -> None:
    with pytest.raises(InvalidArgumentsError, match="8192"):
        fleet.enqueue("gate.whoami", auth={"sub": "ada", "org_id": "x" * 9000})


async def test_a_long_delay_does_not_use_up_the_tokens_life(
    guarded: ValkeyServer, keys: Keys
) -> None:
    settings = keys.settings(guarded.producer_url, auth_token_seconds=60)
    async with AsyncFleet(settings=settings) as fleet:
        run = await fleet.enqueue("gate.whoami", auth=ADA, delay=7200)
        record = await fleet.ledger.queries.invocation(run.id)
        await run.cancel()
    assert record is not None
    token = orjson.loads(record.headers)[TOKEN_HEADER]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 7260


async def test_a_message_of_an_unknown_skill_does_not_end_a_strangers_run(
    guarded: ValkeyServer, factory: TokenFactory
) -> None:
    new = await factory.prepare("gate.whoami", {"note": "mine"})
    headers = orjson.dumps(orjson.loads(new.headers) | {TOKEN_HEADER: factory.token(new)})
    own = replace(new, headers=headers)
    ledger = factory.fleet.ledger
    strange = envelope(invocation_from(replace(own, skill="nothing")))
    await ledger.submissions.submit(replace(own, delay_ms=2000), b"")
    await factory.fleet.ledger.connection.execute("LPUSH", "celery", strange)
    assert (await factory.fleet.run(new.id).result(timeout=30))["sub"] == "ada"
