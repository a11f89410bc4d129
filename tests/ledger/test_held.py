"""Runs that no live worker serves are held until one does, or until they waited too long."""

from collections.abc import Sequence

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import ClaimStatus, EndResult, Submission
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    newest,
    reap,
    running,
    settings_for,
    submission,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
REASON = f"unserved:{TASK}"


async def held(ledger: Ledger, **values: object) -> Submission:
    """Submit a run and hold it, as a worker that does not serve its skill."""
    new = await submitted(ledger, **values)
    assert await ledger.held.hold_unserved(new.id, TASK) == "held"
    return new


async def unpublished(ledger: Ledger, run_id: str) -> bool:
    return await touch(ledger, "ZSCORE", run_id, "unpublished", run_id) is not None


async def test_a_held_run_is_queued_and_names_its_reason(ledger: Ledger) -> None:
    new = await held(ledger)
    status = await ledger.queries.status(new.id)
    assert (status.state, status.held) == (RunState.QUEUED, REASON)
    assert [run.id for run in await newest(ledger, state=RunState.QUEUED)] == [new.id]
    assert await ledger.held.hold_unserved(new.id, TASK) == "held"


async def test_it_waits_in_no_queue_and_is_not_published_again(ledger: Ledger) -> None:
    new = await held(ledger)
    await touch(ledger, "ZADD", new.id, "unpublished", 1, new.id)
    found = await reap(ledger, grace_ms=0)
    assert found.to_publish == ()
    assert not await unpublished(ledger, new.id)


async def test_it_is_demand_of_its_queue_until_it_starts(ledger: Ledger) -> None:
    runs = [await held(ledger, queue=queue) for queue in ("deep", "deep", "deep", "flat")]
    await claimed(ledger, runs[0].id)
    new = runs[-1]
    stats = {stat.queue: stat for stat in await ledger.queues.stats()}
    assert (stats["deep"].unserved, stats["deep"].queued, stats["deep"].demand) == (2, 0, 3)
    await claimed(ledger, new.id)
    stats = {stat.queue: stat for stat in await ledger.queues.stats(["flat"])}
    assert (stats["flat"].unserved, stats["flat"].demand) == (0, 1)


async def test_a_worker_that_serves_it_frees_it_in_the_order_of_creation(ledger: Ledger) -> None:
    published: list[str] = []

    async def publish(run_ids: Sequence[str]) -> None:
        published.extend(run_ids)

    ledger.woken.publish = publish
    runs = [await held(ledger) for _ in range(103)]
    for number, run in enumerate(runs):
        await touch(ledger, "ZADD", run.id, f"held:{REASON}", number, run.id)
    assert await ledger.held.release_served(0, {"librarian.other"}) == 0
    assert await ledger.held.release_served(0, {TASK, "librarian.other"}) == 103
    assert published == [run.id for run in runs]
    status = await ledger.queries.status(runs[0].id)
    assert (status.state, status.held) == (RunState.QUEUED, None)
    assert await ledger.held.release_served(0, {TASK}) == 0


async def test_the_reaper_publishes_a_freed_run_that_its_caller_did_not(ledger: Ledger) -> None:
    new = await held(ledger)
    await ledger.held.release_served(0, {TASK})
    assert await unpublished(ledger, new.id)
    assert (await reap(ledger)).to_publish == ()
    await touch(ledger, "ZADD", new.id, "unpublished", 1, new.id)
    assert (await reap(ledger)).to_publish == (new.id,)
    await ledger.maintenance.published(0, [new.id])
    assert not await unpublished(ledger, new.id)


async def test_a_message_that_reaches_a_serving_worker_starts_it(ledger: Ledger) -> None:
    new = await held(ledger)
    lease = await claimed(ledger, new.id)
    assert (await ledger.queries.status(new.id)).held is None
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)


async def test_it_can_be_cancelled_and_its_deadline_passes(ledger: Ledger) -> None:
    cancelled = await held(ledger)
    assert await ledger.cancellation.cancel(cancelled.id, "enough")
    assert (await ledger.queries.status(cancelled.id)).held is None
    late = await held(ledger, deadline_ms=1)
    assert (await reap(ledger)).to_end == ((late.id, 0, "overdue"),)
    ended = await ledger.leases.end_unclaimed(late.id, TASK, DONE, 0)
    assert ended is EndResult.ENDED_NOW


async def test_only_a_queued_run_whose_delay_is_over_is_held(ledger: Ledger) -> None:
    assert await ledger.held.hold_unserved("nothing", TASK) == "unknown"
    delayed = await submitted(ledger, delay_ms=LONG_MS)
    assert await ledger.held.hold_unserved(delayed.id, TASK) == "early"
    lease = await running(ledger)
    assert await ledger.held.hold_unserved(lease.run_id, TASK) == "running"
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert await ledger.held.hold_unserved(lease.run_id, TASK) == "succeeded"


async def test_the_reaper_names_a_run_that_waited_too_long(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, unserved_seconds=600))
    try:
        new = await held(ledger)
        assert await ledger.held.reap(0) == []
        await touch(ledger, "ZADD", new.id, "held", 1, new.id)
        assert await ledger.held.reap(0) == [(new.id, 0)]
        assert await ledger.held.reap(0) == []  # it comes again some seconds later
        again = float(await touch(ledger, "ZSCORE", new.id, "held", new.id))
        assert 0 < again - await ledger.directory.now_ms() <= 5000
    finally:
        await ledger.close()


async def test_a_run_that_is_held_for_another_reason_is_not_claimed(unaudited: Ledger) -> None:
    ledger = unaudited
    new = submission()
    await ledger.submissions.submit(new)
    await touch(ledger, "HSET", new.id, f"run:{new.id}", "held", "session:chat")
    claim = await ledger.leases.claim(new.id, "w", "c", LONG_MS, None)
    assert (claim.status, claim.detail) == (ClaimStatus.HELD, "session:chat")


async def test_leftovers_in_the_indexes_are_removed(unaudited: Ledger) -> None:
    ledger = unaudited
    gone, running_run = submission(), await running(ledger)
    for run_id in (gone.id, running_run.run_id):
        await touch(ledger, "ZADD", run_id, "held", 1, run_id)
        await touch(ledger, "ZADD", run_id, f"held:{REASON}", 1, run_id)
    await touch(ledger, "HSET", gone.id, "unserved", f"{TASK}|celery", 1)
    assert await ledger.held.release_served(0, {TASK}) == 0
    for index in (f"held:{REASON}", "held"):
        assert await touch(ledger, "EXISTS", gone.id, index) == 0
    await touch(ledger, "ZADD", gone.id, "held", 1, gone.id)
    assert await ledger.held.reap(0) == []
    assert await touch(ledger, "EXISTS", gone.id, "held") == 0


async def test_a_run_that_is_held_for_another_reason_stays_held(unaudited: Ledger) -> None:
    ledger = unaudited
    new = await submitted(ledger)
    await touch(ledger, "HSET", new.id, f"run:{new.id}", "held", "limit:gpu")
    await touch(ledger, "ZADD", new.id, "held", 1, new.id)
    assert await ledger.held.reap(0) == []
    assert (await ledger.queries.status(new.id)).held == "limit:gpu"
