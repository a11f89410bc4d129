"""Counts of runs by queue."""

import pytest

from skillfleet_ledger import Ledger
from skillfleet_ledger.queues import QueueStats
from tests.ledger.helpers import DONE, LONG_MS, claimed, settings_for, submission, submitted
from tests.support.valkey import ValkeyServer


async def stats_of(ledger: Ledger, *known: str) -> dict[str, QueueStats]:
    return {stat.queue: stat for stat in await ledger.queues.stats(known)}


async def test_waiting_running_and_delayed_runs_are_distinguished(ledger: Ledger) -> None:
    for priority in (0, 3, 3):
        await submitted(ledger, queue="deep", priority=priority)
    await submitted(ledger, queue="deep", delay_ms=LONG_MS)
    taken = await submitted(ledger, queue="deep")
    lease = await claimed(ledger, taken.id)
    await submitted(ledger, queue="later", delay_ms=LONG_MS)
    stats = await stats_of(ledger, "idle")
    assert set(stats) == {"deep", "idle", "later"}
    deep = stats["deep"]
    assert (deep.queued, deep.running, deep.delayed, deep.demand) == (3, 1, 1, 4)
    assert (stats["later"].delayed, stats["later"].demand) == (1, 0)
    assert stats["idle"] == QueueStats(queue="idle")
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert (await stats_of(ledger))["deep"].running == 0


async def test_the_age_is_that_of_the_run_that_has_waited_longest(ledger: Ledger) -> None:
    await submitted(ledger)
    old = await submitted(ledger)
    now = await ledger.directory.now_ms()
    await ledger.connection.execute("ZADD", "{skillfleet:0}:ready:celery:0", now - 90_000, old.id)
    age = (await stats_of(ledger))["celery"].oldest_age_seconds
    assert 90 <= age < 150


async def test_a_delay_is_counted_until_it_ends_however_it_ends(ledger: Ledger) -> None:
    cancelled = await submitted(ledger, delay_ms=LONG_MS)
    await ledger.cancellation.cancel(cancelled.id, "enough")
    assert "celery" not in await stats_of(ledger)
    retried = await submitted(ledger)
    lease = await claimed(ledger, retried.id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again", delay_ms=LONG_MS)
    assert (await stats_of(ledger))["celery"].delayed == 1


@pytest.mark.parametrize("shards", [1, 16])
async def test_all_shards_are_summed(valkey: ValkeyServer, shards: int) -> None:
    ledger = Ledger(settings_for(valkey, shards=shards))
    try:
        for _ in range(40):
            await ledger.submissions.submit(submission())
            await ledger.submissions.submit(submission(delay_ms=LONG_MS))
        stat = (await stats_of(ledger))["celery"]
        assert (stat.queued, stat.delayed, stat.demand) == (40, 40, 40)
    finally:
        await ledger.close()
