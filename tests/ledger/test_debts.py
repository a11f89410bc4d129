"""Cleanups of ended and cancelled runs: the fleet does them whichever process dies."""

import asyncio
import contextlib
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.maintenance import ReapResult
from skillfleet_ledger.runs.records import ClaimStatus, EndResult, Lease, WriteResult
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    lapse,
    reap,
    running,
    settings_for,
    submitted,
    touch,
)
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

TASK = "librarian.survey"
CANCELLED = RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough")
HOUR_MS = 3_600_000


async def calling(ledger: Ledger, **values: object) -> tuple[Lease, Lease]:
    """Return a running run and a running run that it called."""
    parent = await running(ledger, **values)
    return parent, await called(ledger, parent, parent.run_id)


async def called(ledger: Ledger, parent: Lease, root: str) -> Lease:
    child = child_of(parent, root)
    assert await ledger.submissions.submit(child)
    return await claimed(ledger, child.id, "w2")


async def reap_due_cleanups(ledger: Ledger, **options: Any) -> ReapResult:
    """Play a round of the reaper in which all cleanups are due."""
    for run_id in await owing(ledger):
        await touch(ledger, "ZADD", run_id, "cleanups", "XX", 1, run_id)
    return await reap(ledger, **options)


async def owing(ledger: Ledger) -> list[str]:
    return [run_id.decode() for run_id in await touch(ledger, "ZRANGE", "x", "cleanups", 0, -1)]


async def cancel_reason(ledger: Ledger, run_id: str) -> str | None:
    return (await ledger.queries.status(run_id)).cancel_requested


async def test_a_run_that_ends_owes_the_end_of_those_it_called(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    assert (
        await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    ).result is WriteResult.SETTLED
    # The worker dies here.
    found = await reap_due_cleanups(ledger)
    assert (found.to_clean_up, found.to_end) == ((parent.run_id,), ())
    await ledger.cancellation.clean_up(parent.run_id)
    assert await cancel_reason(ledger, child.run_id) == "the calling run ended succeeded"
    assert await owing(ledger) == []
    assert (
        await ledger.leases.settle(child, TASK, child.seq, CANCELLED)
    ).result is WriteResult.SETTLED


@pytest.mark.parametrize("how", ["close", "cancel", "settle"])
async def test_every_way_to_end_notes_the_debt(ledger: Ledger, how: str) -> None:
    parent, _ = await calling(ledger)
    if how == "settle":
        await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    else:
        await ledger.leases.requeue(parent, parent.seq, outcome="released", reason="drain")
    if how == "close":
        assert (
            await ledger.leases.end_unclaimed(parent.run_id, TASK, CANCELLED) == EndResult.ENDED_NOW
        )
    if how == "cancel":
        await ledger.cancellation._cancel_one(parent.run_id, CANCELLED)
        assert (await ledger.queries.status(parent.run_id)).state is RunState.CANCELLED
    assert (await reap_due_cleanups(ledger)).to_clean_up == (parent.run_id,)


async def test_who_pays_first_strikes_the_debt(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    await ledger.cancellation.cancel_children(parent.run_id, "the calling run has ended")
    assert await owing(ledger) == []
    assert await cancel_reason(ledger, child.run_id) == "the calling run has ended"


async def test_a_run_whose_calls_are_all_over_owes_nothing(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    other = child_of(parent, parent.run_id, digest="other")
    await ledger.submissions.submit(other)
    await ledger.leases.settle(child, TASK, child.seq, DONE)
    await ledger.leases.end_unclaimed(other.id, TASK, CANCELLED)
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    assert await owing(ledger) == []
    for run_id in (parent.run_id, child.run_id):
        left = await touch(ledger, "PTTL", run_id, f"run:{run_id}")
        assert 0 < left <= LONG_MS


async def test_the_whole_tree_is_paid_for(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    below = await called(ledger, child, parent.run_id)
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    await ledger.cancellation.clean_up(parent.run_id)
    for run_id in (child.run_id, below.run_id):
        status = await ledger.queries.status(run_id)
        assert status.cancel_requested == "the calling run ended succeeded"
    assert await owing(ledger) == []


async def test_a_debt_that_cannot_be_paid_comes_again_and_lets_others_pass(
    ledger: Ledger,
) -> None:
    parents = [await calling(ledger) for _ in range(3)]
    for parent, _ in parents:
        await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    first = await reap_due_cleanups(ledger, limit=20)
    assert (len(first.to_clean_up), first.more) == (2, True)
    second = await reap(ledger, limit=1)
    # None of them was done, and none blocked the others.
    names = {*first.to_clean_up, *second.to_clean_up}
    assert names == {parent.run_id for parent, _ in parents}
    assert (await reap(ledger, limit=10)).to_clean_up == ()
    assert set((await reap_due_cleanups(ledger)).to_clean_up) == names


async def test_a_retention_that_is_over_before_a_debt_is_paid_saves_no_run(
    valkey: ValkeyServer,
) -> None:
    ledger = Ledger(settings_for(valkey))
    try:
        parent, child = await calling(ledger, retention_ms=1)
        await ledger.leases.settle(parent, TASK, parent.seq, DONE)
        key = f"children:{parent.run_id}"
        assert HOUR_MS - 600_000 < await touch(ledger, "PTTL", parent.run_id, key) <= HOUR_MS

        async def expired() -> bool:
            return await ledger.queries.invocation(parent.run_id) is None

        await wait_until_async(expired, what="the parent to expire")
        assert (await reap_due_cleanups(ledger)).to_clean_up == (parent.run_id,)
        await ledger.cancellation.clean_up(parent.run_id)
        assert await cancel_reason(ledger, child.run_id) == "the calling run ended"
        assert await owing(ledger) == []
        assert await touch(ledger, "EXISTS", parent.run_id, key) == 0
        # The child's end does not bring the parent's record back.
        await ledger.leases.settle(child, TASK, child.seq, CANCELLED)
        assert await touch(ledger, "EXISTS", parent.run_id, f"run:{parent.run_id}") == 0
    finally:
        await ledger.close()


async def test_the_list_of_children_of_one_that_paid_expires_with_its_record(
    ledger: Ledger,
) -> None:
    parent, _ = await calling(ledger, retention_ms=600_000)
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    await ledger.cancellation.clean_up(parent.run_id)
    left = await touch(ledger, "PTTL", parent.run_id, f"children:{parent.run_id}")
    assert 0 < left <= 600_000


async def test_a_debt_of_no_known_run_is_struck_off(ledger: Ledger) -> None:
    live = await running(ledger)
    queued = await submitted(ledger, max_deliveries=1)
    ended = await running(ledger)
    await ledger.leases.settle(ended, TASK, ended.seq, DONE)
    for run_id in (live.run_id, queued.id, ended.run_id, "unknown"):
        await touch(ledger, "ZADD", run_id, "cleanups", 1, run_id)
    found = await reap_due_cleanups(ledger)
    assert (found.to_clean_up, found.to_end) == ((), ())
    assert await owing(ledger) == []


async def test_the_debt_of_a_former_life_does_not_end_those_of_the_next(ledger: Ledger) -> None:
    """An idempotency key may bring an id back before its cleanup is done."""
    parent, child = await calling(ledger)
    await touch(ledger, "ZADD", parent.run_id, "cleanups", 1, parent.run_id)
    await touch(ledger, "PEXPIRE", parent.run_id, f"children:{parent.run_id}", LONG_MS)
    assert (await reap_due_cleanups(ledger)).to_clean_up == ()
    assert await owing(ledger) == []
    assert await cancel_reason(ledger, child.run_id) is None
    assert await touch(ledger, "PTTL", parent.run_id, f"children:{parent.run_id}") == -1


async def test_a_live_run_strikes_nothing_off(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    await touch(ledger, "ZADD", parent.run_id, "cleanups", 1, parent.run_id)
    await ledger.cancellation.cancel_children(parent.run_id, "its caller failed")
    assert await owing(ledger) == [parent.run_id]
    assert await cancel_reason(ledger, child.run_id) == "its caller failed"


async def test_one_that_is_being_cancelled_makes_no_more_calls_and_owes_nothing(
    ledger: Ledger,
) -> None:
    parent, _ = await calling(ledger)
    await ledger.cancellation._cancel_one(parent.run_id, CANCELLED, only_mark="1")
    await ledger.cancellation.cancel_children(parent.run_id, "enough")
    assert await owing(ledger) == []


async def test_a_called_run_is_not_started_after_the_end_of_its_caller(ledger: Ledger) -> None:
    parent = await running(ledger)
    child = child_of(parent, parent.run_id)
    await ledger.submissions.submit(child)
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    claim = await ledger.leases.claim(child.id, "w2", "c", LONG_MS, None)
    assert (claim.status, claim.code) == (ClaimStatus.CANCELLED, "parent_ended")
    assert claim.detail == "its calling run has ended"
    assert (await ledger.queries.status(child.id)).attempt == 0
    # Its worker dies before it has closed the run.
    assert (await reap_due_cleanups(ledger)).to_end == ((child.id, claim.token, "cancelled"),)


async def test_nor_after_its_callers_record_is_gone(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey))
    try:
        parent, child = await calling(ledger)
        await lapse(ledger, child.run_id)
        assert (await reap(ledger)).to_publish == (child.run_id,)
        await touch(ledger, "DEL", parent.run_id, f"run:{parent.run_id}")
        claim = await ledger.leases.claim(child.run_id, "w2", "c", LONG_MS, None)
        assert (claim.status, claim.detail) == (
            ClaimStatus.CANCELLED,
            "its calling run has ended",
        )
        assert await touch(ledger, "EXISTS", parent.run_id, f"run:{parent.run_id}") == 0
    finally:
        await ledger.close()


async def test_nor_while_its_caller_is_being_cancelled(ledger: Ledger) -> None:
    parent = await running(ledger)
    child = child_of(parent, parent.run_id)
    await ledger.submissions.submit(child)
    assert (await ledger.cancellation._cancel_one(parent.run_id, CANCELLED, only_mark="1"))[
        0
    ] == "marked"
    claim = await ledger.leases.claim(child.id, "w2", "c", LONG_MS, None)
    assert (claim.status, claim.code) == (ClaimStatus.CANCELLED, "parent_ended")
    assert claim.detail == "its parent was cancelled: enough"


@pytest.mark.parametrize("how", ["retry", "released", "lost"])
async def test_a_run_that_is_queued_again_keeps_those_it_called(ledger: Ledger, how: str) -> None:
    parent = await running(ledger)
    child = child_of(parent, parent.run_id)
    await ledger.submissions.submit(child)
    if how == "lost":
        await lapse(ledger, parent.run_id)
        assert (await reap(ledger)).to_publish == (parent.run_id,)
    else:
        delay_ms = LONG_MS if how == "retry" else 0
        await ledger.leases.requeue(parent, parent.seq, outcome=how, reason="x", delay_ms=delay_ms)
    assert await owing(ledger) == []
    assert (await claimed(ledger, child.id)).attempt == 1


@pytest.mark.parametrize("delay_ms", [0, LONG_MS])
async def test_a_canceller_that_dies_after_its_first_step_is_no_loss(
    ledger: Ledger, delay_ms: int
) -> None:
    """Its run is in the queue again, and has called another."""
    parent, child = await calling(ledger)
    assert (await ledger.cancellation._cancel_one(parent.run_id, CANCELLED, only_mark="1"))[
        0
    ] == "marked"
    await ledger.leases.requeue(parent, parent.seq, outcome="retry", reason="x", delay_ms=delay_ms)
    found = await reap_due_cleanups(ledger)
    assert (found.to_clean_up, found.to_end) == ((parent.run_id,), ())
    await ledger.cancellation.clean_up(parent.run_id)
    status = await ledger.queries.status(parent.run_id)
    assert (status.state, status.code, status.message) == (
        RunState.CANCELLED,
        "cancelled_by_caller",
        "enough",
    )
    assert await cancel_reason(ledger, child.run_id) == "its parent was cancelled: enough"
    assert (await reap_due_cleanups(ledger)).to_clean_up == ()
    assert await owing(ledger) == []


async def test_the_same_for_one_that_runs(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    await ledger.cancellation._cancel_one(parent.run_id, CANCELLED, only_mark="1")
    assert (await reap_due_cleanups(ledger)).to_clean_up == (parent.run_id,)
    await ledger.cancellation.clean_up(parent.run_id)
    assert await cancel_reason(ledger, child.run_id) == "its parent was cancelled: enough"
    assert await owing(ledger) == []
    # A run that is cancelled halfway: its lease expires.
    await lapse(ledger, parent.run_id)
    assert (await reap(ledger)).to_end == ((parent.run_id, parent.token + 1, "cancelled"),)


async def test_and_for_one_that_a_worker_closes_as_it_claims_it(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    await ledger.cancellation._cancel_one(parent.run_id, CANCELLED, only_mark="1")
    await ledger.leases.requeue(parent, parent.seq, outcome="released", reason="drain")
    claim = await ledger.leases.claim(parent.run_id, "w2", "c", LONG_MS, None)
    assert (claim.status, claim.code) == (ClaimStatus.CANCELLED, "cancelled_by_caller")
    assert (
        await ledger.leases.end_unclaimed(parent.run_id, TASK, CANCELLED, claim.token)
        == EndResult.ENDED_NOW
    )
    assert (await reap_due_cleanups(ledger)).to_clean_up == (parent.run_id,)
    await ledger.cancellation.clean_up(parent.run_id)
    assert await cancel_reason(ledger, child.run_id) == "the calling run ended cancelled"


async def test_a_whole_cancellation_leaves_no_debt(ledger: Ledger) -> None:
    parent, child = await calling(ledger)
    below = await called(ledger, child, parent.run_id)
    assert await ledger.cancellation.cancel(parent.run_id, "enough")
    assert await owing(ledger) == []
    for lease in (parent, child, below):
        await ledger.leases.settle(lease, TASK, lease.seq, CANCELLED)
    assert await owing(ledger) == []


@pytest.mark.parametrize("outcome", ["retry", "released"])
@pytest.mark.parametrize("delay_ms", [0, LONG_MS])
async def test_a_cancelled_run_that_is_given_back_ends_at_once(
    ledger: Ledger, outcome: str, delay_ms: int
) -> None:
    lease = await running(ledger)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    await ledger.leases.requeue(lease, lease.seq, outcome=outcome, reason="x", delay_ms=delay_ms)
    ((run_id, token, why),) = (await reap(ledger)).to_end
    assert (run_id, why) == (lease.run_id, "cancelled")
    assert (await reap(ledger)).to_end == ()
    assert (await reap_due_cleanups(ledger)).to_end == ((run_id, token, why),)
    assert await ledger.leases.end_unclaimed(run_id, TASK, CANCELLED, token) == EndResult.ENDED_NOW
    assert await owing(ledger) == []


async def test_a_run_whose_deadline_passed_while_it_ran_ends_at_once(ledger: Ledger) -> None:
    lease = await running(ledger, deadline_ms=1_795_000_000_000 * 2)
    await touch(ledger, "HSET", lease.run_id, f"run:{lease.run_id}", "deadline", 1)
    await touch(ledger, "ZADD", lease.run_id, "deadlines", 1, lease.run_id)
    assert (await reap(ledger)).to_end == ()
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x", delay_ms=LONG_MS)
    assert (await reap(ledger)).to_end == ((lease.run_id, lease.token + 1, "overdue"),)


async def test_a_run_that_is_released_again_and_again_ends(ledger: Ledger) -> None:
    """A hundred releases are free; each later one counts as a lost attempt."""
    new = await submitted(ledger, max_deliveries=2)
    for _ in range(101):
        lease = await claimed(ledger, new.id)
        await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="x")
    assert await owing(ledger) == []
    lease = await claimed(ledger, new.id)
    await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="x")
    claim = await ledger.leases.claim(new.id, "w2", "c", LONG_MS, None)
    assert claim.status is ClaimStatus.EXHAUSTED
    assert (await reap(ledger)).to_end == ((new.id, claim.token, "released"),)
    status = await ledger.queries.status(new.id)
    assert (status.state, status.attempt, status.retries) == (RunState.QUEUED, 102, 0)


async def test_one_that_called_others_ends_before_they_do(ledger: Ledger) -> None:
    """It was not cancelled: its end alone requires theirs."""
    parent, child = await calling(ledger, max_deliveries=1)
    key = f"run:{parent.run_id}"
    await touch(ledger, "HSET", parent.run_id, key, "released", 100)
    await ledger.leases.requeue(parent, parent.seq, outcome="released", reason="x")
    ((run_id, token, why),) = (await reap(ledger)).to_end
    assert (run_id, why) == (parent.run_id, "released")
    assert await ledger.leases.end_unclaimed(run_id, TASK, CANCELLED, token) == EndResult.ENDED_NOW
    assert (await reap_due_cleanups(ledger)).to_clean_up == (parent.run_id,)
    assert await cancel_reason(ledger, child.run_id) is None


async def test_retries_are_no_releases(ledger: Ledger) -> None:
    new = await submitted(ledger, max_deliveries=1)
    for _ in range(102):
        lease = await claimed(ledger, new.id)
        await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    assert await claimed(ledger, new.id)


async def test_a_cancellation_whose_answer_is_lost_is_still_the_one_that_did_it(
    valkey: ValkeyServer,
) -> None:
    """The run has ended by the time the request comes again."""
    calm = Ledger(settings_for(valkey))
    async with Proxy(valkey.port) as proxy, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(calm.close)
        ledger = Ledger(settings_for(valkey, redis_url=proxy.url))
        stack.push_async_callback(ledger.close)
        before, queued = await submitted(ledger), await submitted(ledger)
        # From now on the server knows the script.
        assert await ledger.cancellation.cancel(before.id, "enough")
        proxy.cut_replies_after(1)
        assert await ledger.cancellation.cancel(queued.id, "enough")
        assert not await ledger.cancellation.cancel(queued.id, "enough")
        assert (await calm.queries.status(queued.id)).message == "enough"


@pytest.mark.parametrize("script", ["cancel", "request_cancel"])
async def test_a_request_that_comes_again_gets_the_answer_it_missed(
    ledger: Ledger, script: str
) -> None:
    ledger.cancellation._may_end_runs = script == "cancel"
    lease = await running(ledger)
    requests = [f"{number:016x}" for number in range(9)]
    for request in requests:
        await ledger.cancellation._cancel_one(lease.run_id, CANCELLED, "1", request)
    await ledger.leases.settle(lease, TASK, lease.seq, CANCELLED)
    answers = [
        (await ledger.cancellation._cancel_one(lease.run_id, CANCELLED, "1", request))[0]
        for request in (*requests, "f" * 16, "")
    ]
    # The newest eight are known.
    assert answers == ["ended", *["asked"] * 8, "ended", "ended"]


async def test_a_user_who_may_not_end_runs_has_it_done_by_the_reaper(ledger: Ledger) -> None:
    ledger.cancellation._may_end_runs = False
    queued = await submitted(ledger)
    assert await ledger.cancellation.cancel(queued.id, "enough")
    assert (await reap(ledger)).to_end == ((queued.id, 0, "cancelled"),)
    parent, child = await calling(ledger)
    assert await ledger.cancellation.cancel(parent.run_id, "enough")
    assert await cancel_reason(ledger, child.run_id) == "its parent was cancelled: enough"
    # All of them were reached: no cleanup is left.
    assert (await reap_due_cleanups(ledger)).to_clean_up == ()
    await ledger.leases.requeue(parent, parent.seq, outcome="released", reason="x")
    assert (await reap(ledger)).to_end == ((parent.run_id, parent.token + 1, "cancelled"),)


async def test_a_debt_of_thousands_is_paid(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, max_tree_runs=5000))
    try:
        parent = await running(ledger)
        children = [child_of(parent, parent.run_id, digest=f"d{n}x") for n in range(1500)]
        await asyncio.gather(*(ledger.submissions.submit(child) for child in children))
        await ledger.leases.settle(parent, TASK, parent.seq, DONE)
        with contextlib.suppress(FleetUnavailableError):
            await ledger.cancellation.clean_up(parent.run_id)
        for child in children[::500]:
            assert (await ledger.queries.status(child.id)).state is RunState.CANCELLED
        assert await owing(ledger) == []
    finally:
        await ledger.close()
