"""The attempts of a worker process on a real ledger, without a worker."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from skillfleet import Agent, RunContext
from skillfleet.contracts import InvocationHeader, WaitKind, WaitOutcome
from skillfleet.errors import EventsUnwritableError
from skillfleet.ports.journal import Decision, WaitSpec
from skillfleet_auth.open_admission import OpenAdmission
from skillfleet_engine.loop import bridge
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.runs.records import Lease
from skillfleet_worker import WorkerSettings
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.delivery import Delivery
from skillfleet_worker.attempts.event_buffer import EventBuffer, EventBufferHooks
from skillfleet_worker.attempts.execution import Registration
from skillfleet_worker.attempts.executor import Executor
from skillfleet_worker.attempts.journal import LedgerJournal
from skillfleet_worker.attempts.outcomes import Cancelled, Lost, Succeeded
from skillfleet_worker.attempts.parking import Parking
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.stop_request import StopKind
from skillfleet_worker.attempts.supervision import supervise
from skillfleet_worker.attempts.waiting import WaitingRoom
from skillfleet_worker.services.process_services import ProcessServices
from tests.ledger.helpers import read_all, running, submitted, touch
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

Body = Callable[[WorkerProcess], Coroutine[Any, Any, None]]


def in_process(valkey: ValkeyServer, body: Body) -> None:
    """Run `body` on the home loop, with a process that was not started."""

    @asynccontextmanager
    async def unstarted() -> Any:
        settings = WorkerSettings.load(redis_url=valkey.url, drain_seconds=60)
        process = WorkerProcess(settings)
        try:
            yield process
        finally:
            await process.close()

    async def run() -> None:
        async with unstarted() as process:
            await body(process)

    asyncio.run_coroutine_threadsafe(run(), bridge.home_loop()).result(30)


def attempt(token: int = 1, run_id: str = "r1") -> Attempt:
    lease = Lease(run_id, token, token, 1, 0, None, 0)
    delivery = Delivery(run_id, "kit", "add", "celery", {}, None, None, run_id, {})
    return Attempt(lease, delivery, 0.0)


def kind(of: Attempt) -> StopKind | None:
    return of.stop.kind if of.stop else None


def test_a_newer_attempt_of_a_run_keeps_the_watch_when_the_older_one_ends(
    valkey: ValkeyServer,
) -> None:
    async def body(process: WorkerProcess) -> None:
        old, new = attempt(1), attempt(2)
        process.begin(old)
        process.begin(new)
        assert (kind(old), kind(new)) == (StopKind.LOST, None)
        process.end(old)
        assert process.attempts == {"r1": new}
        process.end(new)
        assert process.attempts == {}

    in_process(valkey, body)


def test_a_cancellation_that_comes_before_its_attempt_is_kept_for_it(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        await process.ledger.cancellation.cancel(lease.run_id, "enough of it")
        services = ProcessServices(process, [])
        services._on_command(f"cancel {lease.run_id} enough of it".encode())
        await asyncio.gather(*services._tasks)
        late, other = attempt(run_id=lease.run_id), attempt(run_id="r2")
        process.begin(late)
        process.begin(other)
        await asyncio.wait_for(late.wait_stopped(), 20)
        assert (late.cancel_reason, other.cancel_reason) == ("enough of it", None)

    in_process(valkey, body)


def test_of_two_orders_to_drain_the_faster_one_counts(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        running = attempt()
        process.begin(running)
        process.drain(0.0)
        process.drain(None)
        await asyncio.wait_for(running.wait_stopped(), 5)
        assert kind(running) is StopKind.RELEASED
        assert running.shutting_down
        late = attempt(run_id="r2")
        process.begin(late)
        assert kind(late) is StopKind.RELEASED

    in_process(valkey, body)


def test_a_cancelled_attempt_that_is_given_up_in_its_grace_still_has_an_outcome(
    valkey: ValkeyServer,
) -> None:
    async def body(process: WorkerProcess) -> None:
        cancelled = attempt()
        begun = asyncio.Event()

        async def handler() -> None:
            begun.set()
            await asyncio.sleep(600)

        supervised = asyncio.create_task(supervise(handler(), cancelled, process.settings))
        await begun.wait()
        cancelled.cancel("enough")
        # The grace has begun.
        await asyncio.sleep(0.05)
        supervised.cancel()
        outcome = await asyncio.wait_for(supervised, 5)
        assert isinstance(outcome, Cancelled)
        assert outcome.message == "enough"
        assert cancelled.handler is not None
        assert cancelled.handler.cancelled()

    in_process(valkey, body)


@pytest.mark.parametrize(("passed", "executed"), [(0.5, True), (1.0, False)])
def test_a_claim_whose_answer_outlasts_its_lease_starts_nothing(
    valkey: ValkeyServer, passed: float, executed: bool
) -> None:
    """A process that was frozen between its claim and the answer may not be the last to claim."""
    started: list[str] = []

    async def handler(ctx: RunContext) -> None:
        started.append(ctx.task_id)

    skill = Agent("kit").skill(name="late")(handler)

    async def body(process: WorkerProcess) -> None:
        new = await submitted(process.ledger, skill="late")
        clock = iter([0.0, passed * process.settings.lease_seconds])
        process.loop_time = lambda: next(clock)  # type: ignore[method-assign]
        capabilities: Any = SimpleNamespace(
            limits=None,
            ledger=process.ledger,
            fleet="fleet",
            patience_seconds=1.0,
            admission=OpenAdmission(),
            grants=None,
            secrets=None,
            workspaces=None,
        )
        executor = Executor(process, capabilities, {})
        header = InvocationHeader()
        delivery = Delivery(new.id, "kit", "late", "celery", {}, header, None, new.id, {})
        outcome = await executor.run(Registration(skill, Agent("kit")), delivery)
        assert isinstance(outcome, Succeeded if executed else Lost)
        assert started == ([new.id] if executed else [])

    in_process(valkey, body)


def event_buffer(process: WorkerProcess, lease: Lease) -> EventBuffer:
    hooks = EventBufferHooks(lambda: None, lambda _: None)
    return EventBuffer(
        process.ledger.streams, lease, hooks, flush_seconds=0.001, patience_seconds=0.2
    )


def texts(events: list[Any]) -> list[str]:
    return [event.payload["text"] for event in events if event.kind == "text"]


def test_a_batch_that_redis_did_not_take_is_written_behind_what_is_left(
    valkey: ValkeyServer,
) -> None:
    """Redis came back from its disk without the last events."""

    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        buffer = event_buffer(process, lease)
        keys = [
            f"{process.ledger.keys.prefix(lease.run_id)}{kind}:{lease.run_id}"
            for kind in ("run", "events")
        ]
        await buffer.append("text", orjson.dumps({"text": "one"}))
        await buffer.flush()
        for key in keys:
            await process.ledger.connection.execute("COPY", key, f"{key}:saved")
        await buffer.append("text", orjson.dumps({"text": "two"}))
        await buffer.flush()
        for key in keys:
            await process.ledger.connection.execute("COPY", f"{key}:saved", key, "REPLACE")
        await buffer.append("text", orjson.dumps({"text": "three"}))
        await buffer.flush()
        assert buffer.seq == 3
        await process.ledger.cancellation.cancel(lease.run_id, "done")
        entries = await touch(
            process.ledger, "XRANGE", lease.run_id, f"events:{lease.run_id}", "-", "+"
        )
        assert b"three" in entries[-1][1][3]

    in_process(valkey, body)


def test_events_that_stay_unwritable_fail_what_comes_after(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        buffer = event_buffer(process, lease)
        await process.ledger.connection.close()
        await buffer.append("text", b"{}")
        for wait in (buffer.flush(), buffer.append("text", b"{}")):
            with pytest.raises(EventsUnwritableError):
                await wait
        buffer.close()
        await buffer.flush()
        with pytest.raises(EventsUnwritableError):
            await buffer.append("text", b"{}")

    in_process(valkey, body)


def test_the_error_of_a_write_whose_caller_was_cancelled_is_not_logged(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(process: WorkerProcess) -> None:
        buffer = event_buffer(process, await running(process.ledger))
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            begun.set()
            await may_end.wait()
            raise LeaseLostError("r1")

        caller = asyncio.create_task(buffer.exclusive(write))
        await begun.wait()
        caller.cancel()
        await asyncio.wait({caller})
        del caller
        may_end.set()
        # It has ended when the next one may begin.
        await buffer.exclusive(lambda: asyncio.sleep(0))
        gc.collect()

    in_process(valkey, body)
    assert "never retrieved" not in caplog.text


def test_an_attempt_that_is_over_writes_no_more_events(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        run = await submitted(process.ledger)
        claim = await process.ledger.leases.claim(run.id, process.name, "c", 60_000, None)
        assert claim.lease is not None
        buffer = event_buffer(process, claim.lease)
        await buffer.append("text", orjson.dumps({"text": "in time"}))
        await buffer.flush()
        buffer.close()
        with pytest.raises(EventsUnwritableError, match="the attempt has ended"):
            await buffer.append("text", orjson.dumps({"text": "late"}))
        await process.ledger.leases.requeue(
            claim.lease, buffer.seq, outcome="released", reason="test"
        )
        await process.ledger.cancellation.cancel(run.id, "done")
        assert texts(await read_all(process.ledger, run.id)) == ["in time"]

    in_process(valkey, body)


def test_a_drain_leaves_a_run_to_parking_while_its_question_is_being_opened(
    valkey: ValkeyServer,
) -> None:
    async def body(process: WorkerProcess) -> None:
        spec = WaitSpec("ask#1", WaitKind.ASK, question="Deploy?")
        for is_awaited in (True, False):
            asking = attempt()
            asking.durable = True
            Parking(asking, event_buffer(process, asking.lease), process.ledger, process.settings)
            with asking.waiting.opening(spec.identity):
                asking.begin_shutdown()
                await asyncio.sleep(0)
                assert asking.stop is None
            assert asking.stop is None
            if is_awaited:
                with asking.waiting.awaiting("w1", spec):
                    assert asking.stop is None
            else:
                asking.waiting.not_awaited(spec.identity)
            assert kind(asking) is StopKind.RELEASED

    in_process(valkey, body)


def test_a_run_is_not_parked_while_a_second_wait_is_being_opened(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        first = WaitSpec("ask#1", WaitKind.ASK, question="Deploy?")
        second = WaitSpec("ask#2", WaitKind.ASK, question="Where?")
        asking, journal = await durable(process)
        with asking.waiting.awaiting(await journal.open_wait(first, {}), first):
            with asking.waiting.opening(second.identity):
                asking.begin_shutdown()
                await asyncio.sleep(0.2)
                assert asking.stop is None
            asking.waiting.not_awaited(second.identity)
            await until_parked(asking)

    in_process(valkey, body)


def test_a_question_that_is_asked_again_is_parked_by_a_drain(valkey: ValkeyServer) -> None:
    """The handler does not await it between the invalid answer and the next one."""

    async def body(process: WorkerProcess) -> None:
        spec = WaitSpec("ask#1", WaitKind.ASK, question="Deploy?")
        asking, journal = await durable(process)
        wait_id = await journal.open_wait(spec, {})
        with asking.waiting.awaiting(wait_id, spec):
            answer = Decision(WaitOutcome.ANSWERED, b"17")
            await process.ledger.waits.decide(asking.run_id, wait_id, answer)
        await journal.reopen_wait(wait_id, "not a yes or no")
        asking.begin_shutdown()
        await asyncio.sleep(0)
        assert asking.stop is None
        with asking.waiting.awaiting(wait_id, spec):
            await until_parked(asking)

    in_process(valkey, body)


async def until_parked(of: Attempt) -> None:
    """Wait until the attempt has parked its run."""

    async def is_parked() -> bool:
        return kind(of) is StopKind.PARKED

    await wait_until_async(is_parked)


async def durable(process: WorkerProcess) -> tuple[Attempt, LedgerJournal]:
    """Return an attempt of a durable run, and its journal."""
    lease = await running(process.ledger)
    found = Attempt(lease, attempt(run_id=lease.run_id).delivery, 0.0)
    found.durable = True
    services = SimpleNamespace(
        ledger=process.ledger,
        admission=OpenAdmission(),
        answer_keys=None,
        settings=process.settings,
        room=WaitingRoom(1),
        show_waiting=None,
    )

    async def write_held_text() -> None:
        """Redaction holds nothing back."""

    events = event_buffer(process, lease)
    return found, LedgerJournal(found, events, services, write_held_text, "1")
