"""Answers, rejections and inbox messages: checked where they are given, accepted once."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import orjson
import pytest
from pydantic import BaseModel

from skillfleet.contracts import EntryKind, RunState, WaitKind, WaitOutcome
from skillfleet.errors import (
    ArgumentsTooLargeError,
    InboxFullError,
    InvalidArgumentsError,
    MissingScopes,
    RunEndedError,
    UnknownRunError,
    UnknownWaitError,
    WaitConflictError,
)
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_producer import AsyncFleet, AsyncRunHandle, Fleet
from tests.ledger.helpers import DONE, claimed, running, settings_for, submitted
from tests.support.valkey import ValkeyServer
from tests.support.waiter import BOOLEAN, Waiter

TARGET = {
    "type": "object",
    "properties": {"environment": {"enum": ["staging", "production"]}, "count": {"minimum": 1}},
    "required": ["environment"],
}


class Scene(NamedTuple):
    """A run that a worker executes, and a producer's handle on it."""

    waiter: Waiter
    run: AsyncRunHandle


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings_for(valkey))
    yield ledger
    await ledger.close()


@pytest.fixture
async def producer(valkey: ValkeyServer) -> AsyncIterator[AsyncFleet]:
    async with AsyncFleet(valkey.producer_url) as fleet:
        yield fleet


@pytest.fixture
async def scene(ledger: Ledger, producer: AsyncFleet) -> Scene:
    lease = await running(ledger)
    return Scene(Waiter(ledger, lease), producer.run(lease.run_id))


async def test_an_open_question_is_shown_and_answered(scene: Scene) -> None:
    waiter, run = scene
    wait_id = await waiter.opens(scopes=())
    (wait,) = await run.waits()
    assert (wait.id, wait.run_id, wait.kind) == (wait_id, run.id, WaitKind.ASK)
    assert (wait.question, wait.value_schema) == ("Deploy?", BOOLEAN)
    assert (await run.status()).state is RunState.WAITING
    assert await run.answer(True, auth={"sub": "ada"})
    decision = await waiter.decision(wait_id)
    assert (decision.outcome, decision.value) == (WaitOutcome.ANSWERED, b"true")
    assert decision.by == "ada"
    assert await run.waits() == []


@pytest.mark.parametrize("wait_id", [None, "1"], ids=["the only one", "by its id"])
async def test_the_same_answer_again_is_fine_and_another_conflicts(
    scene: Scene, wait_id: str | None
) -> None:
    waiter, run = scene
    assert await waiter.opens() == "1"
    assert await run.answer(True, wait_id)
    for consumed in (False, True):
        if consumed:
            await waiter.consumes("1")
        assert not await run.answer(True, wait_id)
        with pytest.raises(WaitConflictError, match=r"wait 1 of run .* before"):
            await run.answer(False, wait_id)
        with pytest.raises(WaitConflictError):
            await run.reject("no", wait_id)


async def test_equal_answers_are_the_same_whatever_the_order_of_their_names(scene: Scene) -> None:
    waiter, run = scene
    await waiter.opens(None)
    assert await run.answer({"a": 1, "b": [2]})
    assert not await run.answer({"b": [2], "a": 1})


async def test_of_many_answers_at_once_one_is_accepted(scene: Scene) -> None:
    waiter, run = scene
    await waiter.opens({"type": "integer"})
    results = await asyncio.gather(
        *(run.answer(number % 5, "1") for number in range(25)), return_exceptions=True
    )
    assert results.count(True) == 1
    assert results.count(False) == 4
    assert sum(isinstance(result, WaitConflictError) for result in results) == 20


async def test_an_answer_that_does_not_fit_is_refused_with_its_field(scene: Scene) -> None:
    waiter, run = scene
    await waiter.opens(TARGET)
    bad = {
        "environment: ": {"environment": "moon"},
        "count: ": {"environment": "staging", "count": 0},
        '"environment" is a required property': {},
        'is not of type "object"': "staging",
    }
    for message, value in bad.items():
        with pytest.raises(InvalidArgumentsError, match=f"the answer does not fit: .*{message}"):
            await run.answer(value)
    assert await run.answer({"environment": "staging", "count": 2})


async def test_an_answer_may_be_whatever_pydantic_writes_as_json(scene: Scene) -> None:
    class Target(BaseModel):
        environment: str

    waiter, run = scene
    await waiter.opens(TARGET)
    await run.answer(Target(environment="production"))
    assert orjson.loads((await waiter.decision("1")).value) == {"environment": "production"}


async def test_an_answer_that_is_not_json_or_too_large_is_refused(scene: Scene) -> None:
    waiter, run = scene
    await waiter.opens(None)
    with pytest.raises(InvalidArgumentsError, match=r"the answer: x\.0 is not JSON"):
        await run.answer({"x": [float("nan")]})
    with pytest.raises(ArgumentsTooLargeError, match="the answer has"):
        await run.answer("x" * 300_000)


async def test_a_rejection_has_a_reason_and_is_final(scene: Scene) -> None:
    waiter, run = scene
    await waiter.opens()
    assert await run.reject("not on a Friday", auth={"sub": "ada"})
    decision = await waiter.decision("1")
    assert (decision.outcome, decision.reason) == (WaitOutcome.REJECTED, "not on a Friday")
    assert decision.by == "ada"
    assert not await run.reject("not on a Monday")
    with pytest.raises(WaitConflictError, match="was rejected by ada before"):
        await run.answer(True)


async def test_of_several_questions_one_is_named(scene: Scene) -> None:
    waiter, run = scene
    first, second = await waiter.opens(identity="a"), await waiter.opens(identity="b")
    with pytest.raises(UnknownWaitError, match=rf"{first} \(Deploy\?\), {second} \(Deploy\?\)"):
        await run.answer(True)
    assert await run.answer(True, second)
    assert [wait.id for wait in await run.waits()] == [first]
    assert await run.answer(False), "only one is left"


async def test_what_is_no_question_takes_no_answer(scene: Scene, producer: AsyncFleet) -> None:
    waiter, run = scene
    with pytest.raises(UnknownWaitError, match="has no open question"):
        await run.answer(True)
    await waiter.opens(None, "message")
    with pytest.raises(UnknownWaitError, match="has no open question"):
        await run.answer(True)
    for odd in ("1", "99", "", "x", "\ud800", "1\n2"):
        with pytest.raises(UnknownWaitError):
            await run.answer(True, odd)
    for call in (producer.run("no-run").answer(1), producer.run("no-run").waits()):
        with pytest.raises(UnknownRunError):
            await call
    with pytest.raises(UnknownRunError):
        await producer.run("no-run").send(1)
    with pytest.raises(UnknownRunError):
        await producer.run("no-run").steps()


async def test_a_withdrawn_question_conflicts(scene: Scene, ledger: Ledger) -> None:
    waiter, run = scene
    await waiter.opens()
    await ledger.waits.withdraw(waiter.lease, waiter.seq, "1")
    with pytest.raises(WaitConflictError):
        await run.answer(True, "1")


async def test_a_run_that_has_ended_takes_nothing(scene: Scene, ledger: Ledger) -> None:
    waiter, run = scene
    await waiter.opens()
    await ledger.leases.settle(waiter.lease, "librarian.survey", waiter.seq, DONE)
    for call in (run.answer(True), run.answer(True, "1"), run.reject("no"), run.send("x")):
        with pytest.raises(RunEndedError, match="ended"):
            await call
    assert await run.waits() == []


async def test_scopes_of_a_question_are_asked_of_who_answers(scene: Scene) -> None:
    waiter, run = scene
    await waiter.opens(scopes=("deploy:approve",))
    for auth in (None, {"sub": "ada"}, {"sub": "ada", "scopes": ["other"]}):
        with pytest.raises(MissingScopes, match="deploy:approve"):
            await run.answer(True, auth=auth)
    assert await run.answer(True, auth={"sub": "ada", "scopes": ["deploy:approve"]})


async def test_an_answer_puts_a_parked_run_before_new_ones(
    scene: Scene, ledger: Ledger, valkey: ValkeyServer
) -> None:
    waiter, run = scene
    await waiter.opens()
    await waiter.parks("1")
    status = await run.status()
    assert (status.state, status.parked, status.waits) == (RunState.WAITING, True, (WaitKind.ASK,))
    with valkey.client() as client:
        client.lpush("celery", "a new run", "a newer run")
        assert await run.answer(True)
        messages = client.lrange("celery", 0, -1)
        assert messages[:2] == [b"a newer run", b"a new run"]
        assert run.id.encode() in messages[2], "workers read from the right"
        assert client.zcard("{skillfleet:0}:unpublished") == 0
    assert (await run.status()).state is RunState.QUEUED
    lease = await claimed(ledger, run.id, "w2")
    assert (lease.attempt, lease.has_journal) == (2, True)


async def test_a_message_wakes_a_parked_run_that_awaits_one_and_no_other(
    scene: Scene, ledger: Ledger, producer: AsyncFleet
) -> None:
    waiter, run = scene
    await waiter.opens(None, "message")
    await waiter.parks("1")
    await run.send({"go": "on"}, auth={"sub": "ada"})
    assert (await run.status()).state is RunState.QUEUED

    other = Waiter(ledger, await running(ledger))
    await other.opens()
    await other.parks("1")
    await producer.run(other.lease.run_id).send("hello")
    assert (await producer.run(other.lease.run_id).status()).parked


async def test_messages_arrive_in_order_with_their_sender(scene: Scene, ledger: Ledger) -> None:
    _, run = scene
    for number in range(3):
        await run.send({"number": number}, auth={"sub": "ada"})
    await run.send("line one\nline two")
    with pytest.raises(InvalidArgumentsError, match="the message is not JSON"):
        await run.send(float("inf"))
    key = f"{ledger.keys.prefix(run.id)}inbox:{run.id}"
    entries = await ledger.connection.execute("LRANGE", key, 0, -1)
    found = [InboxMessage.unpacked(entry) for entry in entries]
    assert [orjson.loads(message.value) for message in found] == [
        *({"number": number} for number in range(3)),
        "line one\nline two",
    ]
    assert [message.by for message in found] == ["ada", "ada", "ada", ""]


async def test_a_queued_run_gets_messages_and_a_full_inbox_says_so(
    ledger: Ledger, producer: AsyncFleet
) -> None:
    run = producer.run((await submitted(ledger)).id)
    for _ in range(4):
        await run.send("x" * 250_000)
    with pytest.raises(InboxFullError, match="unread messages"):
        await run.send("x" * 250_000)


async def test_steps_are_listed_without_their_values(scene: Scene) -> None:
    waiter, run = scene
    assert await run.steps() == []
    await waiter.records("fetch", b'"a page"', tries=2)
    (step,) = await run.steps()
    assert (step.name, step.kind, step.attempt, step.tries) == ("fetch", EntryKind.STEP, 1, 2)
    assert (step.duration_seconds, step.size_bytes, step.outcome) == (0.25, 8, "succeeded")
    assert "a page" not in step.model_dump_json()


def test_the_synchronous_fleet_has_all_of_it(valkey: ValkeyServer) -> None:
    async def open_wait() -> str:
        ledger = Ledger(settings_for(valkey))
        waiter = Waiter(ledger, await running(ledger))
        await waiter.opens()
        await ledger.close()
        return waiter.lease.run_id

    with Fleet(valkey.producer_url) as fleet:
        run = fleet.run(asyncio.run(open_wait()))
        (wait,) = run.waits()
        run.send("hello")
        assert run.answer(True, wait.id)
        assert not run.answer(True)
        with pytest.raises(WaitConflictError):
            run.reject("no")
        assert run.steps() == []
