"""Settling, requeuing and closing runs."""

import asyncio
from datetime import UTC, datetime

from skillfleet.contracts import ReasonCode, RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import ClaimStatus, EndResult, Settled, WriteResult
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    event,
    lapse,
    read_all,
    reap,
    running,
    submitted,
    touch,
)

TASK = "librarian.survey"
FAILED = RunEnd(RunState.FAILED, ReasonCode.SKILL_ERROR, "it broke")


async def test_a_settled_run_has_its_state_result_and_final_event(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert (await ledger.leases.settle(lease, TASK, lease.seq, DONE)).result is WriteResult.SETTLED
    status = await ledger.queries.status(lease.run_id)
    assert (status.state, status.code) == (RunState.SUCCEEDED, "completed")
    assert status.finished_at is not None
    assert abs((datetime.now(UTC) - status.finished_at).total_seconds()) < 60
    assert status.attempts[0].outcome == "succeeded"
    assert await ledger.queries.end(lease.run_id) == DONE
    assert [one.state for one in await read_all(ledger, lease.run_id)] == ["running", "succeeded"]


async def test_settling_again_changes_nothing(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert (
        await ledger.leases.settle(lease, TASK, lease.seq, FAILED)
    ).result is WriteResult.SETTLED
    status = await ledger.queries.status(lease.run_id)
    assert (status.state, status.events) == (RunState.SUCCEEDED, 2)


async def test_of_many_ends_at_once_one_counts(ledger: Ledger) -> None:
    lease = await running(ledger)
    answers = await asyncio.gather(
        *(ledger.leases.settle(lease, TASK, lease.seq, DONE) for _ in range(20)),
        *(ledger.leases.end_unclaimed(lease.run_id, TASK, FAILED, lease.token) for _ in range(20)),
    )
    assert answers.count(Settled(WriteResult.SETTLED)) == 20
    assert answers.count(EndResult.ENDED_BEFORE) == 20
    assert len(await read_all(ledger, lease.run_id)) == 2


async def test_an_attempt_that_lost_its_lease_settles_nothing(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert (await ledger.leases.settle(lease, TASK, lease.seq, DONE)).result is WriteResult.LOST
    second = await claimed(ledger, lease.run_id, "w2")
    assert (await ledger.leases.settle(lease, TASK, lease.seq, DONE)).result is WriteResult.LOST
    assert (
        await ledger.leases.settle(second, TASK, second.seq, FAILED)
    ).result is WriteResult.SETTLED
    assert (await ledger.leases.settle(lease, TASK, lease.seq, DONE)).result is WriteResult.LOST
    assert (await ledger.queries.status(lease.run_id)).state is RunState.FAILED


async def test_an_end_waits_for_events_that_are_missing(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert (await ledger.leases.settle(lease, TASK, lease.seq + 2, DONE)).result is WriteResult.GAP
    await ledger.streams.append(lease, lease.seq + 1, [event(), event()])
    assert (await ledger.leases.settle(lease, TASK, lease.seq, DONE)).result is WriteResult.GAP
    assert (
        await ledger.leases.settle(lease, TASK, lease.seq + 2, DONE)
    ).result is WriteResult.SETTLED


async def test_a_retry_is_counted_and_waits_its_delay(ledger: Ledger) -> None:
    lease = await running(ledger)
    answer = await ledger.leases.requeue(
        lease, lease.seq, outcome="retry", reason="try again", delay_ms=60_000
    )
    assert answer is WriteResult.REQUEUED
    status = await ledger.queries.status(lease.run_id)
    assert (status.state, status.retries, status.attempts[0].outcome) == ("queued", 1, "retry")
    assert status.due_at is not None
    claim = await ledger.leases.claim(lease.run_id, "w2", "c2", LONG_MS, None)
    assert claim.status is ClaimStatus.EARLY


async def test_a_released_run_is_not_counted_and_may_start_at_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    answer = await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="drain")
    assert answer is WriteResult.REQUEUED
    again = await claimed(ledger, lease.run_id, "w2")
    assert (again.attempt, again.token > lease.token) == (2, True)
    status = await ledger.queries.status(lease.run_id)
    assert (status.retries, status.attempts[0].outcome) == (0, "released")


async def test_giving_back_again_changes_nothing(ledger: Ledger) -> None:
    lease = await running(ledger)
    for _ in range(3):
        answer = await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again")
        assert answer is WriteResult.REQUEUED
    assert (await ledger.queries.status(lease.run_id)).retries == 1
    await claimed(ledger, lease.run_id, "w2")
    answer = await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again")
    assert answer is WriteResult.REQUEUED
    assert (await ledger.queries.status(lease.run_id)).state is RunState.RUNNING


async def test_what_an_attempt_does_not_hold_it_cannot_give_back(ledger: Ledger) -> None:
    lease = await running(ledger)
    gap = await ledger.leases.requeue(lease, lease.seq + 1, outcome="retry", reason="x")
    assert gap is WriteResult.GAP
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    lost = await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    assert lost is WriteResult.LOST


async def test_a_cancelled_run_does_not_wait_for_its_retry(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.cancellation.cancel(lease.run_id, "enough", ReasonCode.BUDGET_EXHAUSTED)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again", delay_ms=LONG_MS)
    (candidate,) = (await reap(ledger)).to_end
    assert (candidate[0], candidate[2]) == (lease.run_id, "cancelled")
    invocation = await ledger.queries.invocation(lease.run_id)
    assert invocation is not None
    assert (invocation.cancel_reason, invocation.cancel_code) == ("enough", "budget_exhausted")
    end = RunEnd(RunState.CANCELLED, "budget_exhausted", "enough")
    assert (
        await ledger.leases.end_unclaimed(lease.run_id, TASK, end, candidate[1])
        == EndResult.ENDED_NOW
    )


async def test_a_queued_run_is_closed_without_an_attempt(ledger: Ledger) -> None:
    new = await submitted(ledger)
    end = RunEnd(RunState.TIMED_OUT, ReasonCode.DEADLINE_EXCEEDED, "too late")
    assert await ledger.leases.end_unclaimed(new.id, TASK, end) == EndResult.ENDED_NOW
    assert await ledger.leases.end_unclaimed(new.id, TASK, FAILED) == EndResult.ENDED_BEFORE
    (final,) = await read_all(ledger, new.id)
    assert (final.state, final.attempt) == (RunState.TIMED_OUT, 0)


async def test_what_somebody_holds_is_not_closed(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.leases.end_unclaimed(lease.run_id, TASK, FAILED) == EndResult.CHANGED
    assert (
        await ledger.leases.end_unclaimed(lease.run_id, TASK, FAILED, lease.token - 1)
        == EndResult.CHANGED
    )
    assert await ledger.leases.end_unclaimed("unknown", TASK, FAILED) == EndResult.UNKNOWN
    assert (await ledger.queries.status(lease.run_id)).state is RunState.RUNNING


async def test_everything_of_a_finished_run_expires_together(ledger: Ledger) -> None:
    first = await running(ledger)
    await ledger.leases.requeue(first, first.seq, outcome="retry", reason="again")
    lease = await claimed(ledger, first.run_id)
    await ledger.streams.append(lease, lease.seq + 1, [event("x")])
    await ledger.leases.settle(lease, TASK, lease.seq + 1, DONE)
    for kind in ("run", "events", "attempts"):
        left = await touch(ledger, "PTTL", lease.run_id, f"{kind}:{lease.run_id}")
        assert 0 < left <= LONG_MS
    assert await ledger.connection.execute("PTTL", ledger.keys.result_key(lease.run_id)) > 0


async def test_the_attempts_of_a_run_that_was_cancelled_in_the_queue_expire_too(
    ledger: Ledger,
) -> None:
    lease = await running(ledger)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again")
    await ledger.cancellation.cancel(lease.run_id, "changed my mind")
    (attempt,) = (await ledger.queries.status(lease.run_id)).attempts
    assert (attempt.number, attempt.outcome) == (1, "retry")
    assert 0 < await touch(ledger, "PTTL", lease.run_id, f"attempts:{lease.run_id}") <= LONG_MS


async def test_the_end_of_a_run_is_published_on_its_result_key(ledger: Ledger) -> None:
    lease = await running(ledger)
    received: list[bytes | None] = []
    reported = asyncio.Event()

    def listener(message: bytes | None) -> None:
        received.append(message)
        reported.set()

    await ledger.pubsub.listen(ledger.keys.result_key(lease.run_id), listener)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    await asyncio.wait_for(reported.wait(), 10)
    assert received == [
        await ledger.connection.execute("GET", ledger.keys.result_key(lease.run_id))
    ]


async def test_a_result_is_written_once_even_when_the_record_was_reopened(
    unaudited: Ledger,
) -> None:
    lease = await running(unaudited)
    await unaudited.leases.settle(lease, TASK, lease.seq, DONE)
    key = unaudited.keys.result_key(lease.run_id)
    before = await unaudited.connection.execute("GET", key)
    received: list[bytes | None] = []
    await unaudited.pubsub.listen(key, received.append)
    await touch(unaudited, "HSET", lease.run_id, f"run:{lease.run_id}", "state", "queued")
    await unaudited.cancellation.cancel(lease.run_id, "forged")
    assert await unaudited.connection.execute("GET", key) == before
    assert [message for message in received if message] == []
