"""Cancelling runs and the runs they called."""

import asyncio

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import ClaimStatus
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    event,
    lapse,
    read_all,
    reap,
    running,
    submitted,
)
from tests.support.waiting import wait_until_async

TASK = "librarian.survey"


async def test_a_queued_run_ends_at_once(ledger: Ledger) -> None:
    new = await submitted(ledger)
    assert await ledger.cancellation.cancel(new.id, "enough")
    status = await ledger.queries.status(new.id)
    assert (status.state, status.code) == (RunState.CANCELLED, "cancelled_by_caller")
    assert (status.message, status.cancel_requested) == ("enough", "enough")
    (final,) = await read_all(ledger, new.id)
    assert final.payload["message"] == "enough"
    claim = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    assert claim.status is ClaimStatus.ENDED


async def test_a_delayed_run_ends_at_once(ledger: Ledger) -> None:
    new = await submitted(ledger, delay_ms=LONG_MS)
    assert await ledger.cancellation.cancel(new.id, "enough")
    assert (await ledger.queries.status(new.id)).state is RunState.CANCELLED


async def test_a_running_run_is_cancelled_through_its_workers_channel(ledger: Ledger) -> None:
    lease = await running(ledger)
    orders: asyncio.Queue[bytes | None] = asyncio.Queue()
    await ledger.pubsub.listen(f"{ledger.keys.prefix(lease.run_id)}worker:w1", orders.put_nowait)
    assert await ledger.cancellation.cancel(lease.run_id, "enough of this")
    async with asyncio.timeout(10):
        assert await orders.get() == f"cancel {lease.run_id} enough of this".encode()
    assert (await ledger.queries.status(lease.run_id)).state is RunState.RUNNING


async def test_a_running_run_gets_the_cancellation_with_its_next_events(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    assert await ledger.streams.append(lease, lease.seq + 1, [event()]) == (2, "enough")
    assert await ledger.streams.append(lease, lease.seq + 2, []) == (2, "enough")


async def test_the_first_reason_stays(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.cancellation.cancel(lease.run_id, "first", "budget_exhausted")
    assert await ledger.cancellation.cancel(lease.run_id, "second")
    invocation = await ledger.queries.invocation(lease.run_id)
    assert invocation is not None
    assert (invocation.cancel_reason, invocation.cancel_code) == ("first", "budget_exhausted")


async def test_a_run_that_ended_stays_as_it_is(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert not await ledger.cancellation.cancel(lease.run_id, "enough")
    assert (await ledger.queries.status(lease.run_id)).state is RunState.SUCCEEDED


async def test_an_unknown_run_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(UnknownRunError, match="no run 'unknown'"):
        await ledger.cancellation.cancel("unknown", "enough")


async def test_the_cancellation_of_a_run_whose_worker_died_is_not_forgotten(
    ledger: Ledger,
) -> None:
    lease = await running(ledger)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    await lapse(ledger, lease.run_id)
    found = await reap(ledger)
    assert found.to_end == ((lease.run_id, lease.token + 1, "cancelled"),)
    assert found.to_publish == ()


async def test_the_whole_tree_is_cancelled(ledger: Ledger) -> None:
    root = await running(ledger)
    below = [root]
    for _ in range(5):
        child = child_of(below[-1], root.run_id)
        await ledger.submissions.submit(child)
        below.append(await claimed(ledger, child.id))
    waiting = child_of(below[-1], root.run_id)
    await ledger.submissions.submit(waiting)
    await ledger.cancellation.cancel(root.run_id, "enough")
    for lease in below:
        assert (await ledger.queries.status(lease.run_id)).cancel_requested
    status = await ledger.queries.status(waiting.id)
    assert (status.state, status.code) == (RunState.CANCELLED, "parent_ended")
    assert status.message == "its parent was cancelled: enough"


async def test_a_child_is_notified_before_its_caller(ledger: Ledger) -> None:
    root = await running(ledger)
    reported: list[str] = []
    for parent in ("left", "right"):
        above = root
        for _ in range(3):
            child = child_of(above, root.run_id, skill=parent)
            await ledger.submissions.submit(child)
            above = await claimed(ledger, child.id)
    channel = f"{ledger.keys.prefix(root.run_id)}worker:w1"
    await ledger.pubsub.listen(channel, lambda said: reported.append((said or b"").decode()))
    await ledger.cancellation.cancel(root.run_id, "enough")
    await wait_until_async(lambda: has(reported, 7))
    order = [line.split(" ")[1] for line in reported]
    for run_id in order:
        caller = (await ledger.queries.status(run_id)).parent_id
        assert caller is None or order.index(run_id) < order.index(caller)


async def has(reported: list[str], count: int) -> bool:
    return len(reported) >= count


async def test_a_run_that_is_only_marked_yet_is_neither_claimed_nor_forgotten(
    ledger: Ledger,
) -> None:
    """The canceller may die before it notifies the caller, which waits for a retry here."""
    root = await running(ledger)
    child = child_of(root, root.run_id)
    await ledger.submissions.submit(child)
    await claimed(ledger, child.id)
    await ledger.leases.requeue(root, root.seq, outcome="released", reason="drain")
    end = RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough")
    assert (await ledger.cancellation._cancel_one(root.run_id, end, only_mark="1"))[0] == "marked"
    claim = await ledger.leases.claim(root.run_id, "w1", "c", LONG_MS, None)
    assert (claim.status, claim.detail) == (ClaimStatus.CANCELLED, "enough")


async def test_a_run_with_ten_thousand_children_can_be_cancelled(ledger: Ledger) -> None:
    root = await running(ledger)
    key = f"{ledger.keys.prefix(root.run_id)}children:{root.run_id}"
    strangers = [f"gone-{number}" for number in range(10_000)]
    await ledger.connection.execute("SADD", key, *strangers)
    child = child_of(root, root.run_id)
    await ledger.submissions.submit(child)
    assert await ledger.cancellation.cancel(root.run_id, "enough")
    assert (await ledger.queries.status(child.id)).state is RunState.CANCELLED


async def test_a_run_that_is_called_while_the_tree_is_cancelled_does_not_escape(
    ledger: Ledger,
) -> None:
    root = await running(ledger)
    middle = child_of(root, root.run_id)
    await ledger.submissions.submit(middle)
    caller = await claimed(ledger, middle.id)

    async def call_many() -> list[str]:
        made: list[str] = []
        for _ in range(200):
            child = child_of(caller, root.run_id)
            try:
                await ledger.submissions.submit(child)
            except Exception:  # noqa: BLE001 - from now on the tree is closed
                return made
            made.append(child.id)
        return made

    made, _ = await asyncio.gather(call_many(), ledger.cancellation.cancel(root.run_id, "enough"))
    assert len(made) < 200
    for run_id in made:
        assert (await ledger.queries.status(run_id)).state is RunState.CANCELLED


async def test_what_a_run_called_can_be_cancelled_alone(ledger: Ledger) -> None:
    root = await running(ledger)
    child = child_of(root, root.run_id)
    await ledger.submissions.submit(child)
    await ledger.cancellation.cancel_children(root.run_id, "its caller failed")
    assert (await ledger.queries.status(child.id)).message == "its caller failed"
    assert (await ledger.queries.status(root.run_id)).cancel_requested is None
