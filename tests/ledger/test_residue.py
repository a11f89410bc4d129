"""A fleet with many runs leaves no keys in Redis."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.maintenance import ReapOptions
from skillfleet_ledger.runs.records import EndResult
from tests.ledger.helpers import (
    DONE,
    child_of,
    claimed,
    event,
    lapse,
    running,
    settings_for,
    submission,
    submitted,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

RUNS = 4000
RETENTION_MS = 1000
TASK = "librarian.survey"


def values_of(number: int) -> dict[str, Any]:
    return {
        "retention_ms": RETENTION_MS,
        "agent": f"agent-{number % 50}",
        "queue": f"tenant-{number % 20}",
    }


async def cancelled_while_delayed(ledger: Ledger, **values: Any) -> None:
    new = await submitted(ledger, delay_ms=10**9, **values)
    await ledger.cancellation.cancel(new.id, "enough")


async def overdue_in_the_queue(ledger: Ledger, **values: Any) -> None:
    new = await submitted(ledger, deadline_ms=1, **values)
    await ledger.leases.end_unclaimed(new.id, TASK, RunEnd(RunState.TIMED_OUT, "deadline_exceeded"))


async def succeeded_with_events(ledger: Ledger, **values: Any) -> None:
    lease = await running(ledger, deadline_ms=4 * 10**12, **values)
    await ledger.streams.append(lease, lease.seq + 1, [event()] * 20)
    await ledger.leases.settle(lease, TASK, lease.seq + 20, DONE)


async def succeeded_with_artifacts(ledger: Ledger, **values: Any) -> None:
    lease = await running(ledger, **values)
    for name in ("a", "b", "a"):
        await ledger.artifacts.write(lease, name, _bytes(), "text/plain")
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)


async def cancelled_with_a_child(ledger: Ledger, **values: Any) -> None:
    lease = await running(ledger, **values)
    await ledger.submissions.submit(child_of(lease, lease.run_id, **values))
    await ledger.cancellation.cancel(lease.run_id, "enough")
    await ledger.leases.settle(lease, TASK, lease.seq, RunEnd(RunState.CANCELLED, "enough"))


async def cancelled_before_its_retry(ledger: Ledger, **values: Any) -> None:
    lease = await running(ledger, **values)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x", delay_ms=1)
    await ledger.cancellation.cancel(lease.run_id, "enough")


async def succeeded_after_a_crash(ledger: Ledger, **values: Any) -> None:
    lease = await running(ledger, **values)
    await lapse(ledger, lease.run_id)
    while (await ledger.queries.state(lease.run_id))[0] is not RunState.QUEUED:
        await ledger.maintenance.reap(0, "reaper", ReapOptions())
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.write(lease, "a", _bytes(), "text/plain")
    lease = await claimed(ledger, lease.run_id)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)


async def buried(ledger: Ledger, **values: Any) -> None:
    lease = await running(ledger, **values)
    end = RunEnd(RunState.DEAD, "worker_lost")
    assert (
        await ledger.leases.end_unclaimed(lease.run_id, TASK, end, lease.token)
        == EndResult.ENDED_NOW
    )


WAYS = (
    cancelled_while_delayed,
    overdue_in_the_queue,
    succeeded_with_events,
    succeeded_with_artifacts,
    cancelled_with_a_child,
    cancelled_before_its_retry,
    succeeded_after_a_crash,
    buried,
)


async def _bytes() -> AsyncIterator[bytes]:
    yield b"x" * 100


async def test_thousands_of_finished_runs_leave_no_key(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey))
    try:
        for first in range(0, RUNS, 500):
            await asyncio.gather(
                *(WAYS[i % len(WAYS)](ledger, **values_of(first + i)) for i in range(500))
            )
            await ledger.maintenance.reap(0, "reaper", ReapOptions())
        adopted = submission(retention_ms=RETENTION_MS)
        claim = await ledger.leases.claim(adopted.id, "w1", "c1", 60_000, adopted)
        assert claim.lease is not None
        await ledger.leases.settle(claim.lease, TASK, claim.lease.seq, DONE)

        async def only_the_leader_lock_is_left() -> bool:
            await ledger.maintenance.reap(0, "reaper", ReapOptions())
            keys = await ledger.connection.execute("KEYS", "*")
            return {key.rpartition(b":")[2] for key in keys} <= {b"reaper", b"reaped"}

        try:
            await wait_until_async(only_the_leader_lock_is_left, 30, "all keys to go")
        except AssertionError:
            left = await ledger.connection.execute("KEYS", "*")
            raise AssertionError(f"{len(left)} keys are left: {sorted(left)[:20]}") from None
    finally:
        await ledger.close()
