"""Redis is away, silent or cut off: no caller hangs, nothing is lost, nothing happens twice."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease
from skillfleet_producer import Settings
from skillfleet_producer.fleet_async import AsyncFleet, AsyncRunHandle
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.delivery import Delivery
from skillfleet_worker.attempts.stop_request import StopKind
from skillfleet_worker.services.heartbeat import Heartbeat, held_seconds
from skillfleet_worker.settings import WorkerSettings
from tests.chaos.evidence import Journal
from tests.chaos.moments import calls_of
from tests.ledger.audit import audit
from tests.support.fleet import FleetWorker
from tests.support.forms import forms
from tests.support.proxy import Proxy, Trap
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until, wait_until_async
from tests.worker.shared import StartWorker

CHAOS = "tests.chaos.skills"
QUICK = {"lease_seconds": 1, "redis_timeout_seconds": 0.5, "reap_seconds": 0.2}


async def test_all_who_enqueue_while_redis_is_silent_learn_of_it_at_once(
    server: ValkeyServer,
) -> None:
    async with Proxy(server.port) as proxy:
        settings = Settings.load(redis_url=proxy.url, redis_timeout_seconds=1)
        async with AsyncFleet(settings=settings) as fleet:
            await fleet.enqueue("chaos.process_id", {})
            proxy.hold()
            fleet.enqueuer._catalogue._read_at = float("-inf")  # it is older than it may be
            # One after the other they would take twice as long.
            async with asyncio.timeout(20):
                answers = await asyncio.gather(
                    *(fleet.enqueue("chaos.process_id", {}) for n in range(80)),
                    return_exceptions=True,
                )
            assert {type(answer) for answer in answers} == {FleetUnavailableError}
            proxy.release()
            run = await fleet.enqueue("chaos.process_id", {})
            assert (await run.status()).state is RunState.QUEUED


async def numbers_of(run: AsyncRunHandle, attempt: int) -> list[int]:
    """The numbers that the skill gave to its events in an attempt."""
    return [
        int(event.payload["current"])
        async for event in run.events()
        if event.attempt == attempt and "current" in event.payload
    ]


async def emitted(run: AsyncRunHandle, count: int) -> bool:
    """True when the run's stream has that many events."""
    return (await run.status()).events >= count


async def test_a_child_that_is_killed_before_the_worker_first_connects_is_replaced(
    server: ValkeyServer,
) -> None:
    async with Proxy(server.port) as proxy:
        await proxy.refuse()
        worker = FleetWorker(server, CHAOS, pool="prefork", redis_url=proxy.url)
        try:
            worker.launch()
            await asyncio.to_thread(
                wait_until, lambda: "Cannot connect" in worker.text(), 60, "the first try"
            )
            os.kill(worker.children()[0], signal.SIGKILL)
            await proxy.accept()
            await asyncio.to_thread(
                wait_until,
                lambda: worker.serves() and len(worker.children()) == 2,
                60,
                "two children",
            )
        finally:
            await asyncio.to_thread(worker.close)


@pytest.mark.parametrize(
    "how", forms(short=["stopped"], thorough=["paused by a client", "killed and started again"])
)
async def test_runs_outlast_a_redis_that_is_away_for_several_leases(
    how: str, server: ValkeyServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    await asyncio.to_thread(start_worker, CHAOS, **QUICK)
    settings = Settings.load(redis_url=server.url)
    async with AsyncFleet(settings=settings) as fleet:
        journal = str(tmp_path / "journal")
        args = {"journal": journal, "count": 60, "pause": 0.1}
        streaming = await fleet.enqueue("chaos.stream", args)
        args = {"journal": journal, "children": 3, "seconds": 2.0}
        calling = await fleet.enqueue("chaos.parent", args)
        await wait_until_async(lambda: emitted(streaming, 4), what="the run's first events")
        await away(server, how, 4.0)
        assert await streaming.result(timeout=60) == 60
        assert await calling.result(timeout=60) == 6
        status = await streaming.status()
        assert await numbers_of(streaming, status.attempt) == list(range(60))
        assert (await calling.status()).children == 3
        assert await (await fleet.enqueue("chaos.process_id")).result(timeout=30)
        with server.client() as client:
            assert audit(client, fleet.ledger.keys) == []


async def away(server: ValkeyServer, how: str, seconds: float) -> None:
    """Let Redis be out of reach for some seconds."""
    if how == "stopped":
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        server.signal(signal.SIGCONT)
    elif how == "paused by a client":
        with server.client() as client:
            client.client_pause(int(seconds * 1000), all=True)
        await asyncio.sleep(seconds)
    else:
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["prefork", "threads"]))
async def test_a_worker_that_is_cut_off_stops_and_writes_nothing_when_it_is_back(
    pool: str, server: ValkeyServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = str(tmp_path / "journal")
    # Long enough for heartbeats of Celery's in between, which wait for an answer.
    quick = QUICK | {"lease_seconds": 3}
    async with Proxy(server.port) as proxy, AsyncFleet(server.url) as fleet:
        cut_off = await asyncio.to_thread(
            start_worker, CHAOS, pool=pool, concurrency=2, redis_url=proxy.url, **quick
        )
        run = await fleet.enqueue("chaos.stream", {"journal": journal, "count": 80, "pause": 0.1})
        await wait_until_async(lambda: emitted(run, 4), what="the run's first events")
        proxy.hold()
        await asyncio.to_thread(
            start_worker, CHAOS, pool=pool, concurrency=2, **(quick | {"lease_seconds": 600})
        )
        await wait_until_async(lambda: has_attempt(run, 2), what="a second attempt")
        proxy.release()
        # The worker that was cut off consumes again.
        await wait_until_async(lambda: is_back(fleet, cut_off), 30, "the worker to be back")
        assert await run.result(timeout=60) == 80
        assert [attempt.outcome for attempt in (await run.status()).attempts] == [
            "lost",
            "succeeded",
        ]
        first = await numbers_of(run, 1)
        assert first == list(range(len(first)))
        assert await numbers_of(run, 2) == list(range(80))
        assert [event.attempt async for event in run.events()] == sorted(
            [event.attempt async for event in run.events()]
        )
        older, younger = Journal(Path(journal)).executions[run.id]
        assert older.ended
        assert older.last < younger.first
        with server.client() as client:
            assert audit(client, fleet.ledger.keys) == []


async def test_a_worker_that_is_cut_off_while_it_records_a_step_stops_before_its_lease_ends(
    server: ValkeyServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    quick = QUICK | {"lease_seconds": 3}
    async with Proxy(server.port) as proxy, AsyncFleet(server.url) as fleet:
        modules = "tests.chaos.durable_skills"
        for url in (proxy.url, server.url):
            await asyncio.to_thread(start_worker, modules, redis_url=url, **quick)
        recorded = Trap(calls_of("record"), re.compile(rb"\*2\r\n:1\r\n"), passes=False)
        proxy.set_trap(recorded)
        args = {"journal": str(tmp_path / "journal"), "pause": 0.01, "failing": 0}
        runs = [await fleet.enqueue("durable.kept", args) for _ in range(8)]
        await asyncio.wait_for(recorded.sprung.wait(), 30)
        for run in runs:
            await run.result(timeout=60)
        proxy.release()
        executions = Journal(tmp_path / "journal").executions.values()
    repeated = [attempts for attempts in executions if len(attempts) > 1]
    assert repeated
    for older, younger, *_ in repeated:
        assert older.last < younger.first


async def has_attempt(run: AsyncRunHandle, number: int) -> bool:
    return (await run.status()).attempt >= number


async def is_back(fleet: AsyncFleet, worker: FleetWorker) -> bool:
    """True when the worker executes a run."""
    run = await fleet.enqueue("chaos.process_id")
    pids = {worker.pid, *worker.children()}
    return await run.result(timeout=20) in pids


async def test_a_lease_is_given_up_before_anybody_else_may_take_it(valkey: ValkeyServer) -> None:
    """Also when it was taken in the middle between two renewals."""
    async with Proxy(valkey.port) as proxy:
        proxy.hold()
        settings = WorkerSettings.load(redis_url=proxy.url, lease_seconds=3)
        ledger = Ledger(settings)
        try:
            now = asyncio.get_running_loop().time()
            lease = Lease("r1", 1, 1, 1, 0, None, 0)
            delivery = Delivery("r1", "kit", "add", "celery", {}, None, None, "r1", {})
            # A renewal that failed after a whole second would end before the lease, the next after.
            attempt = Attempt(lease, delivery, now - 1.9)
            await Heartbeat(ledger.leases, "w1", {"r1": attempt}, settings).beat()
            assert attempt.stop is not None
            assert attempt.stop.kind is StopKind.RELEASED
            assert asyncio.get_running_loop().time() >= attempt.renewed_at + held_seconds(3)
        finally:
            await ledger.close()
