"""Parked runs: no lease, no worker, woken by whatever they wait for, ended like queued ones."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from skillfleet.contracts import RunState, WaitKind
from skillfleet.ports.journal import WaitSpec
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import (
    ClaimStatus,
    EndResult,
    Lease,
    RunLimits,
    Settled,
    Submission,
    WriteResult,
)
from skillfleet_ledger.runs.search import RunFilter
from skillfleet_ledger.runs.waits import DecideStatus
from tests.ledger.durable import YES, ask, decided, entry, field, last, message, opened, parked
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    reap,
    running,
    submitted,
    touch,
)

TASK = "librarian.survey"
DEADLINE = 4_102_444_800_000
CANCELLED = RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough")


async def park(ledger: Ledger, lease: Lease, *waits: str) -> WriteResult:
    """Park, as a worker does whose handler ends at once."""
    written = await ledger.leases.park(lease, await last(ledger, lease.run_id), waits)
    if written is WriteResult.PARKED:
        await ledger.leases.end_parking(lease)
    return written


async def state(ledger: Ledger, run_id: str) -> RunState:
    return (await ledger.queries.state(run_id))[0]


async def calling(ledger: Ledger, **values: Any) -> tuple[Lease, Submission]:
    """Return a run that waits for a run which it called."""
    lease = await running(ledger)
    child = child_of(lease, lease.run_id, parent_token=lease.token, **values)
    await opened(ledger, lease, WaitSpec("c", WaitKind.CALL, call=child.id))
    await ledger.submissions.submit(child)
    return lease, child


async def test_a_parked_run_has_no_lease(ledger: Ledger) -> None:
    lease = await running(ledger, deadline_ms=DEADLINE)
    run_id = lease.run_id
    await touch(ledger, "ZADD", run_id, "deadlines", 5 * 10**12, run_id)
    await opened(ledger, lease)
    seq = await last(ledger, run_id)
    before = await ledger.directory.now_ms()
    for _ in range(2):
        assert await ledger.leases.park(lease, seq, ["1"]) is WriteResult.PARKED
    status = await ledger.queries.status(run_id)
    assert (status.state, status.waits, status.parked) == (
        RunState.WAITING,
        (WaitKind.ASK,),
        True,
    )
    assert [(a.number, a.worker, a.outcome) for a in status.attempts] == [(1, "w1", "parked")]
    assert status.events == seq
    assert await field(ledger, run_id, "token") == str(lease.token + 1).encode()
    assert await touch(ledger, "ZSCORE", run_id, "leases", run_id) is None
    assert await touch(ledger, "SISMEMBER", run_id, "running:celery", run_id) == 0
    since = float(await touch(ledger, "ZSCORE", run_id, "parked", run_id))
    assert before <= since <= await ledger.directory.now_ms()
    assert float(await touch(ledger, "ZSCORE", run_id, "deadlines", run_id)) == DEADLINE
    claim = await ledger.leases.claim(run_id, "w2", "c2", LONG_MS, None)
    assert (claim.status, claim.token) == (ClaimStatus.DUPLICATE, lease.token + 1)


async def test_a_run_is_parked_only_while_it_waits(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await park(ledger, lease) is WriteResult.REFUSED
    assert await park(ledger, lease, "1") is WriteResult.REFUSED
    await opened(ledger, lease, ask("q1"))
    await opened(ledger, lease, ask("q2"))
    assert await park(ledger, lease) is WriteResult.REFUSED
    assert await park(ledger, lease, "1", "3") is WriteResult.REFUSED
    seq = await last(ledger, lease.run_id)
    for wrong in (seq - 1, seq + 1):
        assert await ledger.leases.park(lease, wrong, ["1"]) is WriteResult.GAP
    await decided(ledger, lease.run_id, "2")
    assert await park(ledger, lease, "1", "2") is WriteResult.REFUSED
    assert await state(ledger, lease.run_id) is RunState.WAITING
    assert await park(ledger, lease, "1") is WriteResult.PARKED


async def test_a_run_with_an_unread_message_is_not_parked_for_one(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease, WaitSpec("m", WaitKind.MESSAGE))
    await opened(ledger, lease, ask())
    await ledger.waits.send(lease.run_id, message())
    assert await park(ledger, lease, "1") is WriteResult.REFUSED
    assert await park(ledger, lease, "2", "1") is WriteResult.REFUSED
    assert await park(ledger, lease, "2") is WriteResult.PARKED
    other = await running(ledger)
    await opened(ledger, other, WaitSpec("m", WaitKind.MESSAGE))
    assert await park(ledger, other, "1") is WriteResult.PARKED


async def test_a_parked_run_has_spent_its_executing_time(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease)
    seq = await last(ledger, lease.run_id)
    for _ in range(2):
        assert await ledger.leases.park(lease, seq, ["1"], spent_ms=300) is WriteResult.PARKED
    await ledger.leases.end_parking(lease)
    await decided(ledger, lease.run_id)
    limits = RunLimits(timeout_ms=1000)
    claim = await ledger.leases.claim(lease.run_id, "w1", "c", LONG_MS, None, limits)
    assert claim.lease is not None
    assert claim.lease.rest_ms == 700


async def test_a_run_is_not_parked_for_a_call_that_has_ended(ledger: Ledger) -> None:
    lease, child = await calling(ledger)
    await opened(ledger, lease, WaitSpec("c2", WaitKind.CALL, call="unknown"))
    assert await park(ledger, lease, "2") is WriteResult.REFUSED
    await ledger.leases.end_unclaimed(child.id, TASK, DONE)
    assert await park(ledger, lease, "1") is WriteResult.REFUSED


async def test_a_cancelled_run_is_not_parked(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    assert await park(ledger, lease, "1") is WriteResult.REFUSED


# --- waking -----------------------------------------------------------------------------------


async def test_a_decision_wakes_a_parked_run(ledger: Ledger) -> None:
    lease = await running(ledger, priority=3)
    run_id = lease.run_id
    await parked(ledger, lease)
    before = await ledger.directory.now_ms()
    result = await decided(ledger, run_id)
    assert result.woken
    after = await ledger.directory.now_ms()
    assert await state(ledger, run_id) is RunState.QUEUED
    assert not (await ledger.queries.status(run_id)).parked
    ready = await touch(ledger, "ZSCORE", run_id, "ready:celery:3", run_id)
    assert before <= float(ready) <= after
    assert await field(ledger, run_id, "published") == b"%d" % float(ready)
    due = await touch(ledger, "ZSCORE", run_id, "unpublished", run_id)
    assert before + 2000 <= float(due) <= after + 2000
    assert await touch(ledger, "ZCARD", run_id, "parked") == 0
    again = await ledger.waits.decide(run_id, "1", YES)
    assert (again.status, again.woken) == (DecideStatus.SAME, False)
    successor = await claimed(ledger, run_id)
    assert (successor.token, successor.attempt) == (lease.token + 2, 2)
    # A repeated park does not undo this.
    assert await ledger.leases.park(lease, lease.seq, ["1"]) is WriteResult.PARKED
    assert await field(ledger, run_id, "state") == b"running"


@pytest.mark.parametrize("how", ["settle", "cancel", "close"])
async def test_the_end_of_a_called_run_wakes_its_parked_caller(ledger: Ledger, how: str) -> None:
    lease, child = await calling(ledger)
    assert await park(ledger, lease, "1") is WriteResult.PARKED
    if how == "settle":
        attempt = await claimed(ledger, child.id)
        settled = await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
        assert settled == Settled(WriteResult.SETTLED, (lease.run_id,))
        again = await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
        assert again == Settled(WriteResult.SETTLED)
    elif how == "cancel":
        assert await ledger.cancellation.cancel(child.id, "enough")
    else:
        ended = await ledger.leases.end_unclaimed(child.id, TASK, CANCELLED)
        assert ended is EndResult.ENDED_NOW
    assert await state(ledger, lease.run_id) is RunState.QUEUED
    # No caller published it.
    await touch(ledger, "ZADD", lease.run_id, "unpublished", "XX", 1, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)
    lease = await claimed(ledger, lease.run_id)
    write = await ledger.waits.close(lease, await last(ledger, lease.run_id), "1", entry("c"), {})
    assert write.result is WriteResult.RECORDED


async def test_the_end_of_a_called_run_wakes_no_one_who_waits_for_something_else(
    ledger: Ledger,
) -> None:
    lease, child = await calling(ledger)
    await ledger.waits.withdraw(lease, await last(ledger, lease.run_id), "1")
    wait_id = (await opened(ledger, lease)).wait_id
    assert await park(ledger, lease, wait_id) is WriteResult.PARKED
    attempt = await claimed(ledger, child.id)
    settled = await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
    assert settled == Settled(WriteResult.SETTLED)
    assert await state(ledger, lease.run_id) is RunState.WAITING


async def test_the_end_of_a_called_run_reaches_a_running_caller(ledger: Ledger) -> None:
    lease, child = await calling(ledger)
    orders: asyncio.Queue[Any] = asyncio.Queue()
    await ledger.pubsub.listen(f"{ledger.keys.shard_prefix(0)}worker:w1", orders.put_nowait)
    attempt = await claimed(ledger, child.id, "w2")
    settled = await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
    assert settled == Settled(WriteResult.SETTLED)
    assert await asyncio.wait_for(orders.get(), 10) == f"wake {lease.run_id}".encode()


async def test_a_parked_caller_is_alive_for_its_calls(ledger: Ledger) -> None:
    lease, child = await calling(ledger)
    assert await park(ledger, lease, "1") is WriteResult.PARKED
    attempt = await claimed(ledger, child.id)
    grandchild = child_of(attempt, lease.run_id, parent_token=attempt.token)
    assert await ledger.submissions.submit(grandchild)
    await claimed(ledger, grandchild.id)


# --- demand -----------------------------------------------------------------------------------


async def due(ledger: Ledger) -> tuple[int, int]:
    """Return how many runs of the queue `slow` are due and how many are demand."""
    (stats,) = await ledger.queues.stats(["slow"])
    return stats.due, stats.demand


async def test_a_parked_run_is_demand_once_its_wait_expires_soon(ledger: Ledger) -> None:
    now = await ledger.directory.now_ms()
    for expires in (None, now + 60_000, now + 20_000, 1):
        lease = await running(ledger, queue="slow")
        await parked(ledger, lease, expires_ms=expires)
    lease = await running(ledger, queue="slow")
    for number, expires in enumerate((None, now + 60_000, now + 10_000, now + 50_000, None)):
        await opened(ledger, lease, ask(f"{number}"), expires)
    assert await due(ledger) == (2, 3)
    assert await park(ledger, lease, "1", "2", "3", "4", "5") is WriteResult.PARKED
    assert await due(ledger) == (3, 3)
    # Its wait without a time decides nothing: the earliest of the others does.
    await decided(ledger, lease.run_id)
    assert await due(ledger) == (2, 3)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    woken = (await reap(ledger)).to_publish
    assert len(woken) == 1
    assert await due(ledger) == (1, 2)


# --- ending -----------------------------------------------------------------------------------

End = Callable[[Ledger, str, int], Awaitable[Any]]


async def cancel(ledger: Ledger, run_id: str, token: int) -> None:
    del token
    assert await ledger.cancellation.cancel(run_id, "enough")


async def cancel_without_rights(ledger: Ledger, run_id: str, token: int) -> None:
    """Cancel as a user who may not write results: the reaper ends the run."""
    ledger.cancellation._may_end_runs = False
    assert await ledger.cancellation.cancel(run_id, "enough")
    assert await state(ledger, run_id) is RunState.WAITING
    assert (await reap(ledger)).to_end == ((run_id, token, "cancelled"),)
    await ledger.leases.end_unclaimed(run_id, TASK, CANCELLED, token)


async def let_the_deadline_pass(ledger: Ledger, run_id: str, token: int) -> None:
    await touch(ledger, "HSET", run_id, f"run:{run_id}", "deadline", 1)
    await touch(ledger, "ZADD", run_id, "deadlines", 1, run_id)
    assert (await reap(ledger)).to_end == ((run_id, token, "overdue"),)
    assert (await reap(ledger)).to_end == ()
    end = RunEnd(RunState.TIMED_OUT, "deadline_exceeded")
    assert await ledger.leases.end_unclaimed(run_id, TASK, end, token) is EndResult.ENDED_NOW


@pytest.mark.parametrize("end", [cancel, cancel_without_rights, let_the_deadline_pass])
async def test_a_parked_run_is_ended_like_a_queued_one(ledger: Ledger, end: End) -> None:
    lease = await running(ledger, deadline_ms=DEADLINE)
    run_id = lease.run_id
    await parked(ledger, lease, expires_ms=5 * 10**12)
    await end(ledger, run_id, lease.token + 1)
    assert (await state(ledger, run_id)).terminal
    for index in ("parked", "timers", "deadlines", "cleanups"):
        assert await touch(ledger, "ZCARD", run_id, index) == 0, index
    assert (await ledger.waits.decide(run_id, "1", YES)).status is DecideStatus.ENDED


async def test_a_cancelled_caller_that_is_parked_ends_after_its_calls(ledger: Ledger) -> None:
    lease, child = await calling(ledger)
    assert await park(ledger, lease, "1") is WriteResult.PARKED
    assert await ledger.cancellation.cancel(lease.run_id, "enough")
    for run_id in (lease.run_id, child.id):
        assert await state(ledger, run_id) is RunState.CANCELLED


async def test_a_cancelled_run_that_was_woken_does_not_start(ledger: Ledger) -> None:
    lease = await running(ledger)
    await parked(ledger, lease)
    ledger.cancellation._may_end_runs = False
    await ledger.cancellation.cancel(lease.run_id, "enough")
    await decided(ledger, lease.run_id)
    claim = await ledger.leases.claim(lease.run_id, "w1", "c", LONG_MS, None)
    assert claim.status is ClaimStatus.CANCELLED


# --- lists ------------------------------------------------------------------------------------


async def test_waiting_runs_are_listed(ledger: Ledger) -> None:
    in_memory, away, other = await running(ledger), await running(ledger), await running(ledger)
    await opened(ledger, in_memory)
    await parked(ledger, away)

    async def found(state: RunState) -> set[str]:
        return {run.id for run in await ledger.search.page(RunFilter(state=state))}

    assert await found(RunState.WAITING) == {in_memory.run_id, away.run_id}
    assert await found(RunState.RUNNING) == {other.run_id}
    assert await found(RunState.QUEUED) == set()


# --- the handler's end ------------------------------------------------------------------------


def publishing(ledger: Ledger) -> list[str]:
    """Return a list of the runs that the ledger has published from now on."""
    published: list[str] = []

    async def publish(run_ids: Sequence[str]) -> None:
        published.extend(run_ids)

    ledger.woken.publish = publish
    return published


async def test_a_parked_run_continues_once_its_handler_has_ended(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    published = publishing(ledger)
    await opened(ledger, lease)
    assert await ledger.leases.park(lease, await last(ledger, run_id), ["1"]) is WriteResult.PARKED
    assert not (await ledger.waits.decide(run_id, "1", YES)).woken
    assert (await ledger.queries.status(run_id)).parked
    # Only the attempt that was parked says so.
    await ledger.leases.end_parking(lease._replace(token=lease.token + 1))
    assert published == []
    await ledger.leases.end_parking(lease)
    assert published == [run_id]
    assert await state(ledger, run_id) is RunState.QUEUED
    await ledger.leases.end_parking(lease)
    assert published == [run_id]
    assert (await claimed(ledger, run_id)).has_journal


async def test_a_handler_that_ends_before_anything_happens_wakes_nothing(ledger: Ledger) -> None:
    lease = await running(ledger)
    published = publishing(ledger)
    await parked(ledger, lease)
    assert published == []
    assert (await ledger.queries.status(lease.run_id)).parked
    assert (await ledger.waits.decide(lease.run_id, "1", YES)).woken


async def test_without_a_word_of_its_worker_a_parked_run_continues_after_its_lease(
    ledger: Ledger,
) -> None:
    lease = await claimed(ledger, (await submitted(ledger)).id, lease_ms=60_000)
    run_id = lease.run_id
    await opened(ledger, lease)
    assert await ledger.leases.park(lease, await last(ledger, run_id), ["1"]) is WriteResult.PARKED
    left = float(await touch(ledger, "ZSCORE", run_id, "parking", run_id))
    left -= await ledger.directory.now_ms()
    assert 0 < left <= 60_000
    await ledger.waits.decide(run_id, "1", YES)
    assert (await reap(ledger)).to_publish == ()
    await touch(ledger, "ZADD", run_id, "parking", 1, run_id)
    assert (await reap(ledger)).to_publish == (run_id,)
    assert await touch(ledger, "ZCARD", run_id, "parking") == 0
    await claimed(ledger, run_id)
    # Nothing is left to happen twice.
    assert (await reap(ledger)).to_publish == ()


async def test_a_run_that_ends_while_its_handler_may_execute_leaves_nothing(
    ledger: Ledger,
) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease)
    assert await ledger.leases.park(lease, await last(ledger, run_id), ["1"]) is WriteResult.PARKED
    await ledger.waits.decide(run_id, "1", YES)
    await ledger.cancellation.cancel(run_id, "enough")
    assert await state(ledger, run_id) is RunState.CANCELLED
    assert await touch(ledger, "ZCARD", run_id, "parking") == 0
    assert await field(ledger, run_id, "woken") is None
    await ledger.leases.end_parking(lease)
    assert await state(ledger, run_id) is RunState.CANCELLED
