"""The canvas of a plain Celery client continues after a run's end, even when the worker dies."""

import time

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from tests.ledger.helpers import DONE, claimed, lapse, reap, running, submitted, touch

TASK = "librarian.survey"
FAILED = RunEnd(RunState.FAILED, "skill_error", "bad thing")
CANCELLED = RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough")


async def listed(ledger: Ledger) -> dict[str, float]:
    """Return the runs with a pending canvas, and when the reaper handles them (s)."""
    found = await touch(ledger, "ZRANGE", "x", "canvases", 0, -1, "WITHSCORES")
    pairs = zip(found[::2], found[1::2], strict=True)
    return {run_id.decode(): float(score) / 1000 for run_id, score in pairs}


async def due(ledger: Ledger, run_id: str) -> None:
    """Make the run due in the next round."""
    await touch(ledger, "ZADD", run_id, "canvases", "XX", 1, run_id)


async def ended(ledger: Ledger, canvas: str | None = "any") -> str:
    lease = await running(ledger, canvas=canvas)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    return lease.run_id


@pytest.mark.parametrize(
    ("canvas", "end", "owes"),
    [
        ("any", DONE, True),
        ("any", FAILED, True),
        ("errors", DONE, False),
        ("errors", FAILED, True),
        (None, FAILED, False),
    ],
)
async def test_an_end_notes_what_has_to_go_on(
    ledger: Ledger, canvas: str | None, end: RunEnd, owes: bool
) -> None:
    lease = await running(ledger, canvas=canvas)
    began = time.time()
    await ledger.leases.settle(lease, TASK, lease.seq, end)
    known = await listed(ledger)
    assert set(known) == ({lease.run_id} if owes else set())
    for at in known.values():
        # The worker that ended the run has ten seconds for it.
        assert began + 9.9 < at <= time.time() + 10


async def test_every_way_to_end_notes_it(ledger: Ledger) -> None:
    closed, cancelled = [await submitted(ledger, canvas="any") for _ in range(2)]
    await ledger.leases.end_unclaimed(closed.id, TASK, FAILED)
    await ledger.cancellation.cancel(cancelled.id, "enough")
    assert set(await listed(ledger)) == {closed.id, cancelled.id}


async def test_a_run_that_goes_on_notes_nothing(ledger: Ledger) -> None:
    lease = await running(ledger, canvas="any")
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again")
    again = await claimed(ledger, lease.run_id)
    await lapse(ledger, again.run_id)
    await reap(ledger)
    assert await listed(ledger) == {}


async def test_the_reaper_has_it_go_on_only_when_its_worker_did_not(ledger: Ledger) -> None:
    run_id = await ended(ledger)
    assert (await reap(ledger)).to_publish == ()
    assert not await ledger.maintenance.take_canvas(run_id)
    await due(ledger, run_id)
    assert (await reap(ledger)).to_publish == (run_id,)
    # One of several messages is enough.
    assert [await ledger.maintenance.take_canvas(run_id) for _ in range(3)] == [True, False, False]
    # Not in the next round: a worker has half a minute for it.
    assert (await reap(ledger)).to_publish == ()
    (at,) = (await listed(ledger)).values()
    assert time.time() + 25 < at <= time.time() + 30
    await ledger.maintenance.finish_canvas(run_id)
    assert await listed(ledger) == {}
    await touch(ledger, "HDEL", run_id, f"run:{run_id}", "canvas_taken")
    assert not await ledger.maintenance.take_canvas(run_id)


async def test_one_that_took_it_and_died_has_it_for_twenty_seconds(ledger: Ledger) -> None:
    run_id = await ended(ledger)
    await due(ledger, run_id)
    await reap(ledger)
    assert await ledger.maintenance.take_canvas(run_id)
    for seconds, free in ((18, False), (20, True)):
        then = await ledger.directory.now_ms() - seconds * 1000
        await touch(ledger, "HSET", run_id, f"run:{run_id}", "canvas_taken", then)
        assert await ledger.maintenance.take_canvas(run_id) is free


async def test_the_reaper_comes_again_after_longer_and_longer_times(ledger: Ledger) -> None:
    run_id = await ended(ledger)
    for pause in (30, 60, 120, 240, 480, 960, 1920, 1920):
        await due(ledger, run_id)
        began = time.time()
        assert (await reap(ledger)).to_publish == (run_id,)
        (at,) = (await listed(ledger)).values()
        assert began + pause - 1 < at <= time.time() + pause + 1
    invocation = await ledger.queries.invocation(run_id)
    assert invocation is not None
    assert invocation.has_ended


async def test_a_run_that_expired_leaves_nothing(ledger: Ledger) -> None:
    run_id = await ended(ledger)
    await touch(ledger, "DEL", run_id, f"run:{run_id}")
    await due(ledger, run_id)
    assert (await reap(ledger)).to_publish == ()
    assert await listed(ledger) == {}
    assert not await touch(ledger, "EXISTS", run_id, f"run:{run_id}")
    # The auditor would object to the deletion above.
    await ledger.connection.execute("FLUSHDB")


async def test_a_round_looks_at_so_many_at_once(ledger: Ledger) -> None:
    runs = [await ended(ledger) for _ in range(3)]
    for run_id in runs:
        await due(ledger, run_id)
    found = await reap(ledger, limit=2)
    assert len(found.to_publish) == 2
    assert found.more
