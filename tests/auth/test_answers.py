"""Answers and messages on a fleet that takes signed ones only."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import orjson
import pytest

from skillfleet.contracts import WaitOutcome
from skillfleet.errors import MissingScopes, UnauthorizedError
from skillfleet.ports.admission import IncomingInput, InputKind
from skillfleet.ports.journal import Decision
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_producer import AsyncRunHandle, Fleet, RunHandle, Settings
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

EVE = {"sub": "eve"}
Forgery = Callable[[TokenFactory, IncomingInput], str]


def signed(factory: TokenFactory, given: IncomingInput, name: str = "backend") -> str:
    url = factory.fleet.settings.redis_url
    return factory.keys.signer(url, name).sign_input(given, ADA)


def without_scope(factory: TokenFactory, given: IncomingInput) -> str:
    return factory.keys.signer(factory.fleet.settings.redis_url).sign_input(given, EVE)


FORGERIES: dict[str, Forgery] = {
    "no token": lambda factory, given: "",
    "no token, but text": lambda factory, given: "not a token",
    "another run": lambda factory, given: signed(factory, replace(given, run_id="another")),
    "another wait": lambda factory, given: signed(factory, replace(given, wait_id="7")),
    "another value": lambda factory, given: signed(factory, replace(given, value=False)),
    "an unknown key": lambda factory, given: signed(factory, given, "untrusted"),
    "a worker's key": lambda factory, given: signed(factory, given, "worker"),
    "a missing scope": without_scope,
}


@pytest.fixture
async def factory(guarded: ValkeyServer, keys: Keys) -> AsyncIterator[TokenFactory]:
    factory = TokenFactory(guarded.url, keys)
    yield factory
    await factory.fleet.close()


def asking(fleet: Fleet) -> RunHandle:
    """Return a run that asks its question."""
    run = fleet.enqueue("gate.approves", auth=ADA)
    wait_until(run.waits, what="the question")
    return run


def test_a_signed_answer_names_who_gave_it(fleet: Fleet) -> None:
    run = asking(fleet)
    with pytest.raises(MissingScopes, match="files:read"):
        run.answer(True, auth=EVE)
    assert run.answer(True, auth=ADA)
    assert run.result(timeout=20) is True
    (ended,) = [event.payload for event in run.events() if event.kind == "wait_ended"]
    assert (ended["outcome"], ended["by"]) == ("answered", "ada")


def test_without_a_key_no_answer_is_given(fleet: Fleet, guarded: ValkeyServer) -> None:
    run = asking(fleet)
    keyless = Settings.load(redis_url=guarded.producer_url, auth="required")
    with Fleet(settings=keyless) as other:
        for give in (other.run(run.id).answer, other.run(run.id).send):
            with pytest.raises(UnauthorizedError, match="SKILLFLEET_AUTH_SIGNING_KEY_FILE"):
                give(True, auth=ADA)
    assert len(run.waits()) == 1
    run.cancel()


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_answer_opens_the_question_again(
    factory: TokenFactory, fleet: Fleet, forgery: str
) -> None:
    run = asking(fleet)
    given = IncomingInput(run.id, "1", InputKind.ANSWER, True, by="ada")
    token = FORGERIES[forgery](factory, given)
    decision = Decision(WaitOutcome.ANSWERED, b"true", by="ada", token=token)
    await factory.fleet.ledger.waits.decide(run.id, "1", decision)
    handle = AsyncRunHandle(factory.fleet, run.id)
    asked = 0
    async for event in handle.events(timeout=20):
        asked += event.kind == "wait"
        if asked == 2:
            assert "token" in event.payload["reason"] or "scopes" in event.payload["reason"]
            break
    assert run.answer(False, auth=ADA)
    assert run.result(timeout=20) is False


async def test_a_forged_message_is_dropped(factory: TokenFactory, fleet: Fleet) -> None:
    run = fleet.enqueue("gate.listens", auth=ADA)
    for token in ("", "not a token"):
        forged = InboxMessage(b'"forged"', "ada", token)
        await factory.fleet.ledger.waits.send(run.id, forged.packed())
    await factory.fleet.ledger.waits.send(run.id, orjson.dumps("no frame"))
    run.send("mine", auth=ADA)
    assert run.result(timeout=20) == "mine"
