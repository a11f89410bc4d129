"""Fleet and AsyncFleet: threads, forks, closing, and every verb."""

import asyncio
import hashlib
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from skillfleet.contracts import RunState
from skillfleet.errors import (
    ResultTimeoutError,
    RunCancelled,
    RunFailed,
    RunTimedOut,
    UnknownArtifactError,
)
from skillfleet_ledger import Settings
from skillfleet_producer import AsyncFleet, Fleet
from tests.support.waiting import wait_until
from tests.worker.kit import agent as kit
from tests.worker.shared import Shared, StartWorker, wait_kind, wait_state

MEBIBYTE = 1024 * 1024


def test_several_threads_share_one_fleet(fleet: Fleet) -> None:
    def work(number: int) -> int:
        result: int = fleet.enqueue("kit.add", {"x": number, "y": 0}).result(timeout=30)
        return result

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(64))) == list(range(64))


@pytest.mark.parametrize("auth", ["off", "required"])
@pytest.mark.parametrize("forged", [b"no JSON", b'{"result": "forged"}'])
async def test_a_published_result_is_looked_up(shared: Shared, forged: bytes, auth: str) -> None:
    settings = Settings.load(redis_url=shared.server.producer_url, auth=auth)
    run_id = shared.fleet.enqueue("kit.sleep", {"seconds": 2}).id
    async with AsyncFleet(settings=settings) as caller, AsyncFleet(settings=settings) as other:
        run = caller.run(run_id)
        waiting = asyncio.create_task(run.result(timeout=20))
        channel = caller.settings.keyspace.result_key(run.id)
        with shared.server.client() as client:
            await asyncio.to_thread(
                wait_until, lambda: client.pubsub_numsub(channel)[0][1] == 1, 10
            )
        publisher = Redis.from_url(other.settings.redis_url)
        assert publisher.publish(channel, forged) == 1
        publisher.close()
        assert await waiting == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fleet_made_and_used_before_a_fork_works_in_parent_and_child(shared: Shared) -> None:
    with Fleet(shared.server.producer_url) as fleet:
        assert fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(fleet, answers))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert answers.get() == 3
        assert fleet.enqueue("kit.add", {"x": 3}).result(timeout=20) == 4


def _in_child(fleet: Fleet, answers: Any) -> None:
    answers.put(fleet.enqueue("kit.add", {"x": 2}).result(timeout=20))
    fleet.close()


def test_a_fleet_may_be_closed_twice_and_leaves_no_thread(shared: Shared) -> None:
    before = set(threading.enumerate())
    fleet = Fleet(shared.server.producer_url)
    run = fleet.enqueue("kit.add", {"x": 1})
    assert run.result(timeout=20) == 2
    fleet.close()
    fleet.close()
    assert set(threading.enumerate()) <= before


def test_an_unused_fleet_starts_nothing(shared: Shared) -> None:
    before = set(threading.enumerate())
    with Fleet(shared.server.producer_url):
        assert set(threading.enumerate()) <= before


async def test_the_asynchronous_fleet_does_the_same(async_fleet: AsyncFleet) -> None:
    run = await async_fleet.enqueue("kit.artifact", {"size": 10})
    assert await run.result(timeout=20) == 10
    kinds = [event.kind async for event in run.events()]
    assert kinds == ["state", "artifact", "state"]
    assert [info.name for info in await run.artifacts()] == ["data.bin"]
    assert len(await run.read_artifact("data.bin")) == 10
    assert (await run.status()).state is RunState.SUCCEEDED
    assert not await run.cancel()
    runs = await async_fleet.enqueue_many("kit.add", [{"x": n} for n in range(10)])
    assert await asyncio.gather(*(each.result(timeout=20) for each in runs)) == list(range(1, 11))


def test_a_skill_object_may_stand_for_its_name(fleet: Fleet) -> None:
    assert fleet.enqueue(kit.skills["add"], {"x": 1}).result(timeout=20) == 2


def test_the_result_of_each_ending_is_reported(fleet: Fleet) -> None:
    with pytest.raises(RunFailed, match="bad thing") as failed:
        fleet.enqueue("kit.boom").result(timeout=20)
    with pytest.raises(RunTimedOut) as late:
        fleet.enqueue("kit.overdue").result(timeout=20)
    run = fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    run.cancel("no more")
    with pytest.raises(RunCancelled, match="no more") as cancelled:
        run.result(timeout=20)
    codes = [caught.value.code for caught in (failed, late, cancelled)]
    assert codes == ["skill_error", "deadline_exceeded", "cancelled_by_caller"]


def test_a_timeout_error_says_that_the_run_continues(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    with pytest.raises(ResultTimeoutError, match="the run goes on"):
        run.result(timeout=0.1)
    with pytest.raises(ResultTimeoutError, match="the run goes on"):
        list(run.events(timeout=0.1))
    assert run.status().state is RunState.RUNNING
    run.cancel()


def test_a_fleet_refuses_an_invalid_event_id(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.add", {"x": 1})
    with pytest.raises(ValueError, match="not an event id"):
        list(run.events(after="yesterday"))


def test_enqueue_many_keeps_the_order_and_checks_all_before_it_writes_any(fleet: Fleet) -> None:
    runs = fleet.enqueue_many("kit.add", [{"x": n} for n in range(300)])
    assert [run.result(timeout=30) for run in runs] == list(range(1, 301))
    with pytest.raises(ValueError, match="x"):
        fleet.enqueue_many("kit.add", [{"x": 1}, {"x": "one"}], queue="lonely")
    assert "lonely" not in {run.queue for run in fleet.runs(limit=10_000)}


def test_artifacts_are_read_as_a_stream(fleet: Fleet) -> None:
    size = 5 * MEBIBYTE + 1
    run = fleet.enqueue("kit.artifact", {"size": size})
    run.result(timeout=30)
    pieces = list(run.stream_artifact("data.bin"))
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= MEBIBYTE
    [info] = run.artifacts()
    assert hashlib.sha256(b"".join(pieces)).hexdigest() == info.sha256
    assert (info.size_bytes, info.mime_type) == (size, "application/octet-stream")
    with pytest.raises(UnknownArtifactError, match=r"data\.bin"):
        run.read_artifact("other.bin")


def test_runs_are_listed_by_state_and_agent_newest_first(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.kit,tests.worker.two_queues")
    first = own_fleet.enqueue("kit.add", {"x": 1})
    first.result(timeout=20)
    failed = own_fleet.enqueue("kit.boom")
    wait_state(failed, RunState.FAILED)
    other = own_fleet.enqueue("here.add", {"x": 1})
    other.result(timeout=20)
    running = own_fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_state(running)

    def ids(**filters: Any) -> list[str]:
        return [status.id for status in own_fleet.runs(**filters)]

    assert ids() == [running.id, other.id, failed.id, first.id]
    assert ids(limit=2) == [running.id, other.id]
    assert ids(state="succeeded") == [other.id, first.id]
    assert ids(state=RunState.RUNNING) == [running.id]
    assert ids(agent="here") == [other.id]
    assert ids(agent="kit", state="failed") == [failed.id]
    with pytest.raises(ValueError, match="asleep"):
        ids(state="asleep")
    running.cancel()


def test_the_catalogue_is_read_again_when_a_new_worker_appears(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.kit")
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2
    held = own_fleet.enqueue("there.add", {"x": 1})
    start_worker("tests.worker.two_queues")
    assert held.result(timeout=20) == 201
    run = own_fleet.enqueue("there.add", {"x": 1})
    assert run.result(timeout=20) == 201
    assert run.status().queue == "there"


def test_a_delay_is_kept_and_ends(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.add", {"x": 1}, delay=0.8)
    status = run.status()
    assert status.state is RunState.QUEUED
    assert status.due_at is not None
    assert run.result(timeout=20) == 2
    status = run.status()
    assert status.started_at is not None
    assert (status.started_at - status.created_at).total_seconds() >= 0.8


def test_a_timeout_counts_from_the_end_of_the_delay(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.add", {"x": 1}, delay=0.5, timeout=0.4)
    assert run.result(timeout=20) == 2


def test_a_run_that_waits_past_its_deadline_never_starts(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.add", {"x": 1}, timeout=0.3, queue="unconsumed")
    with pytest.raises(RunTimedOut):
        run.result(timeout=20)
    assert run.status().attempt == 0


def test_urgent_runs_start_before_others(own_fleet: Fleet, start_worker: StartWorker) -> None:
    priorities = [9, 6, 3, 0, 9, 0]
    runs = [own_fleet.enqueue("kit.add", {"x": p}, priority=p) for p in priorities]
    start_worker("tests.worker.kit", concurrency=1)
    for run in runs:
        run.result(timeout=20)
    started = sorted(runs, key=lambda run: run.status().started_at or 0)
    order = [priorities[runs.index(run)] for run in started]
    assert order == sorted(priorities)
