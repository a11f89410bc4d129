"""A token expires for a run that waits, not for one that began in time and goes on."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import jwt
import orjson
import pytest

from skillfleet.contracts import TOKEN_HEADER
from skillfleet_producer import AsyncFleet, AsyncRunHandle
from skillfleet_producer.message import envelope
from skillfleet_producer.submission import invocation_from
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer


@pytest.fixture
async def factory(guarded: ValkeyServer, keys: Keys) -> AsyncIterator[TokenFactory]:
    factory = TokenFactory(guarded.url, keys)
    yield factory
    await factory.fleet.close()


def soon() -> int:
    """An expiry in three seconds or less, and more than two."""
    return int(time.time()) + 3


async def when_expired(expiry: int) -> None:
    while time.time() <= expiry:  # noqa: ASYNC110 - the clock is the condition
        await asyncio.sleep(0.1)


async def test_a_run_that_is_retried_after_its_tokens_expiry_goes_on(factory: TokenFactory) -> None:
    expiry = soon()
    new = await factory.prepare("gate.comes_back", {"how": "retry", "seconds": 4})
    run = await factory.submit(new, factory.token(new, exp=expiry))
    assert await run.result(timeout=20) == "ada"
    assert time.time() > expiry


@pytest.mark.parametrize("how", ["lost", "released"])
async def test_a_run_that_starts_on_another_worker_after_its_tokens_expiry_goes_on(
    server: ValkeyServer, start_worker: Callable[..., FleetWorker], keys: Keys, how: str
) -> None:
    quick = {"lease_seconds": 3, "reap_seconds": 0.2, "drain_seconds": 0}
    worker = start_worker("tests.auth.agents", **keys.worker_settings(), **quick)
    factory = TokenFactory(server.url, keys)
    expiry = soon()
    new = await factory.prepare("gate.comes_back", {"how": how})
    run = await factory.submit(new, factory.token(new, exp=expiry))
    await started(run)
    if how == "lost":
        worker.kill()
    else:
        worker.send_signal(signal.SIGTERM)
        worker.wait_end()
    await when_expired(expiry)
    start_worker("tests.auth.agents", **keys.worker_settings(), **quick)
    assert await run.result(timeout=30) == "ada"
    assert [attempt.outcome for attempt in (await run.status()).attempts] == [how, "succeeded"]
    await factory.fleet.close()


async def started(run: AsyncRunHandle) -> None:
    async for event in run.events(timeout=20):
        if event.kind == "progress":
            return


async def test_a_record_that_claims_earlier_attempts_is_not_believed(factory: TokenFactory) -> None:
    """Any client that may enqueue runs can write such a record, but not the list of attempts."""
    new = await factory.prepare("gate.whoami", {})
    run = await factory.submit(new, None)
    assert (await factory.end_of(run)).code == "unauthorized"
    expired = await factory.prepare("gate.whoami", {})
    token = factory.token(expired, exp=int(time.time()) - 3600)
    await factory.submit_as(expired, token, attempt=3, retries=2, started=1)
    status = await factory.end_of(factory.fleet.run(expired.id))
    assert (status.code, status.message) == ("unauthorized", "the run's token has expired")


@pytest.mark.parametrize("lives", [True, False], ids=["good token", "expired token"])
@pytest.mark.parametrize(
    ("skill", "args"), [("gate.whoami", {}), ("gate.comes_back", {"how": "retry"})]
)
async def test_a_run_that_is_over_is_not_run_again(
    factory: TokenFactory, skill: str, args: dict[str, Any], *, lives: bool
) -> None:
    """Its record reopened and its message sent again, as any client that may enqueue runs can."""
    expiry = int(time.time()) + 60 if lives else soon()
    new = await factory.prepare(skill, args)
    run = await factory.submit(new, factory.token(new, exp=expiry))
    await run.result(timeout=20)
    if not lives:
        await when_expired(expiry)
    attempts = (await run.status()).attempt
    ledger = factory.fleet.ledger
    result = await ledger.connection.execute("GET", ledger.keys.result_key(run.id))
    record = await ledger.queries.invocation(run.id)
    assert record is not None
    key, queue = f"{ledger.keys.prefix(run.id)}run:{run.id}", ledger.keys.broker_list("celery", 0)
    for reopened in (("state", "queued"), ("state", "queued", "cancel", "forged")):
        await ledger.connection.execute("HSET", key, *reopened)
        await ledger.connection.execute("LPUSH", queue, envelope(record))
        behind = await factory.prepare("gate.whoami", {})
        await (await factory.submit(behind, factory.token(behind))).result(timeout=20)
        assert (await run.status()).attempt == attempts
        assert await ledger.connection.execute("GET", ledger.keys.result_key(run.id)) == result


async def test_a_token_does_not_outlive_the_record_of_its_run(
    keys: Keys, server: ValkeyServer
) -> None:
    settings = keys.settings(server.producer_url, auth_token_seconds=86_400, retention_seconds=60)
    async with AsyncFleet(settings=settings) as fleet:
        run = await fleet.enqueue("gate.whoami", auth=ADA)
        record = await fleet.ledger.queries.invocation(run.id)
    assert record is not None
    token = orjson.loads(record.headers)[TOKEN_HEADER]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60


async def test_a_strangers_message_is_no_beginning(factory: TokenFactory) -> None:
    """A message that is not the run's own makes no attempt, which could vouch for later ones."""
    new = await factory.prepare("gate.whoami", {"note": "mine"})
    token = factory.token(new, exp=int(time.time()) - 3600)
    headers = orjson.dumps(orjson.loads(new.headers) | {TOKEN_HEADER: token})
    own = replace(new, headers=headers)
    strange = envelope(invocation_from(replace(own, args=b'{"note": "yours"}')))
    await factory.fleet.ledger.submissions.submit(own, strange)
    status = await factory.end_of(factory.fleet.run(new.id))
    assert (status.code, status.message) == ("unauthorized", "the run's token has expired")
    assert status.attempts == ()
