"""The recovery of runs: a dead child, a publisher that fails, a message that was never sent."""

import asyncio
import os
import signal

from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.maintenance import ReapOptions
from skillfleet_ledger.runs.records import Invocation
from skillfleet_producer import Fleet, Settings
from skillfleet_producer.fleet_async import AsyncFleet
from skillfleet_producer.publisher import LedgerPublisher
from skillfleet_producer.submission import Options
from skillfleet_worker.services.reaper import Reaper
from skillfleet_worker.settings import WorkerSettings
from tests.support.valkey import ValkeyServer
from tests.worker.shared import StartWorker, wait_kind

KIT = "tests.worker.kit"


def test_the_run_of_a_killed_child_does_not_wait_for_its_lease(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker(KIT, pool="prefork", concurrency=2, lease_seconds=600, reap_seconds=0.2)
    run = own_fleet.enqueue("kit.sleep", {"seconds": 2})
    wait_kind(run, "progress")
    child = str(run.status().worker).partition(":")[2].partition("-")[0]
    os.kill(int(child), signal.SIGKILL)
    assert run.result(timeout=40) == 2
    assert [attempt.outcome for attempt in run.status().attempts] == ["lost", "succeeded"]


class Failing(LedgerPublisher):
    """Cannot publish the first run it is given, however often it is asked; all others it can."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.refused: str | None = None
        self.sent: list[str] = []

    async def publish(self, invocation: Invocation, *, first: bool = False) -> None:
        self.refused = self.refused or invocation.id
        if invocation.id == self.refused:
            raise ConnectionError("the broker is out of reach")
        await super().publish(invocation, first=first)
        self.sent.append(invocation.id)


async def due_runs(settings: WorkerSettings, count: int) -> list[str]:
    """Runs whose delay is over, which are not published yet."""
    async with AsyncFleet(settings=settings) as fleet:
        runs = [await fleet.enqueue("kit.add", {"x": n}, delay=0.001) for n in range(count)]
    await asyncio.sleep(0.01)
    return [run.id for run in runs]


async def test_a_run_that_cannot_be_published_holds_up_no_other_and_comes_again(
    server: ValkeyServer,
) -> None:
    settings = WorkerSettings.load(redis_url=server.url)
    due = await due_runs(settings, 5)
    ledger = Ledger(settings)
    publisher = Failing(ledger)
    try:
        reaper = Reaper(ledger, publisher, "reaper", settings, lambda *_: None)
        await reaper.round(0)
        assert sorted([*publisher.sent, str(publisher.refused)]) == sorted(due)
        unpublished = await ledger.connection.execute(
            "ZRANGE", f"{ledger.keys.shard_prefix(0)}unpublished", 0, -1
        )
        assert unpublished == [str(publisher.refused).encode()]
    finally:
        await ledger.close()


async def test_a_run_whose_producer_died_before_publishing_executes(
    server: ValkeyServer, start_worker: StartWorker
) -> None:
    settings = Settings.load(redis_url=server.url)
    async with AsyncFleet(settings=settings) as fleet:
        new = await fleet.enqueuer.prepare("kit.add", {"x": 1}, Options())
        assert await fleet.ledger.submissions.submit(new)
        await asyncio.to_thread(start_worker, KIT, reap_seconds=0.2, stranded_seconds=0.5)
        assert await fleet.run(new.id).result(timeout=30) == 2


async def test_runs_that_a_dying_reaper_took_up_are_published_by_the_next(
    server: ValkeyServer, start_worker: StartWorker
) -> None:
    settings = WorkerSettings.load(redis_url=server.url)
    due = await due_runs(settings, 3)
    ledger = Ledger(settings)
    try:
        reaped = await ledger.maintenance.reap(
            0, "a reaper that dies now", ReapOptions(lock_ttl_ms=3000)
        )
        assert reaped is not None
        assert sorted(reaped.to_publish) == sorted(due)
    finally:
        await ledger.close()
    # The runs are not stranded for long: the reaper does not wait for that.
    await asyncio.to_thread(start_worker, KIT, reap_seconds=0.2, stranded_seconds=600)
    async with AsyncFleet(settings=settings) as fleet:
        values = [await fleet.run(run_id).result(timeout=30) for run_id in due]
    assert sorted(values) == [1, 2, 3]
