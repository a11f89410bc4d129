"""A fleet that is closed, or used where it does not belong: no one waits for ever."""

import asyncio
import contextlib
import gc
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import FleetClosedError, SkillfleetError, WrongLoopError
from skillfleet_ledger import Ledger
from skillfleet_ledger.sync import Portal
from skillfleet_producer import AsyncFleet, AsyncRunHandle, Fleet, RunHandle
from tests.ledger.helpers import claimed, settings_for
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

QUEUE = "unconsumed"
NEVER: list[Callable[[RunHandle], Any]] = [
    lambda run: run.result(),
    lambda run: run.result(timeout=600),
    lambda run: list(run.events()),
    lambda run: list(run.events(timeout=600)),
]


def enqueued(fleet: Fleet) -> RunHandle:
    return fleet.enqueue("kit.sleep", {"seconds": 1}, queue=QUEUE)


async def start(server: ValkeyServer, run: RunHandle | AsyncRunHandle) -> None:
    """Make it a running run, of a worker that does nothing: there is one event then."""
    ledger = Ledger(settings_for(server))
    await claimed(ledger, run.id)
    await ledger.close()


def listening(server: ValkeyServer, fleet: Fleet, run: RunHandle) -> bool:
    """True when somebody waits for the run's result, and two for its events."""
    channel = fleet.settings.keyspace.result_key(run.id)
    with server.client() as client:
        blocked = client.info("clients")["blocked_clients"]
        return bool(client.pubsub_numsub(channel)[0][1] == 1 and blocked == 2)


def test_closing_ends_the_waiting_calls_of_other_threads(valkey: ValkeyServer) -> None:
    fleet = Fleet(valkey.producer_url)
    run = enqueued(fleet)
    with ThreadPoolExecutor(len(NEVER)) as threads:
        waiting = [threads.submit(wait, run) for wait in NEVER]
        wait_until(lambda: listening(valkey, fleet, run), what="all to wait")
        fleet.close()
        for wait in waiting:
            with pytest.raises(FleetClosedError, match="closed"):
                wait.result(timeout=30)


def test_closing_ends_calls_that_wait_for_a_silent_redis(valkey: ValkeyServer) -> None:
    def in_thread(act: Callable[[Proxy], None]) -> None:
        asyncio.run_coroutine_threadsafe(_do(act), loop).result()

    async def _do(act: Callable[[Proxy], None]) -> None:
        act(proxy)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(valkey.port)
    asyncio.run_coroutine_threadsafe(proxy.accept(), loop).result()
    try:
        fleet = Fleet(proxy.url)
        run = enqueued(fleet)
        run.status()
        in_thread(Proxy.hold)
        with ThreadPoolExecutor(3) as threads:
            waiting: list[Future[Any]] = [
                threads.submit(call) for call in (run.status, run.cancel, run.result)
            ]
            fleet.close()
            for wait in waiting:
                with pytest.raises(SkillfleetError):
                    wait.result(timeout=60)
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_call_after_closing_opens_the_fleet_again(valkey: ValkeyServer) -> None:
    fleet = Fleet(valkey.producer_url)
    run = enqueued(fleet)
    asyncio.run(start(valkey, run))
    events = run.events()
    next(events)
    fleet.close()
    # What was under way ends with the connections; what begins now has others.
    with pytest.raises(FleetClosedError, match="closed"):
        next(events)
    assert run.status().id == run.id
    assert enqueued(fleet).status().state is RunState.QUEUED
    assert next(run.events()).kind == "state"
    fleet.close()
    fleet.close()


def test_threads_may_use_and_close_a_fleet_at_once(valkey: ValkeyServer) -> None:
    for _ in range(5):
        fleet = Fleet(valkey.producer_url)
        run = enqueued(fleet)
        asyncio.run(start(valkey, run))

        over = threading.Event()

        def use(fleet: Fleet = fleet, run: RunHandle = run, over: threading.Event = over) -> None:
            while not over.is_set():
                with contextlib.suppress(FleetClosedError):
                    enqueued(fleet)
                    run.status()
                    next(run.events())

        with ThreadPoolExecutor(8) as threads:
            using = [threads.submit(use) for _ in range(6)]
            time.sleep(0.05)
            for closing in [threads.submit(fleet.close) for _ in range(2)]:
                closing.result(timeout=60)
            over.set()
            for done in using:
                done.result(timeout=60)
        fleet.close()


async def test_a_synchronous_fleet_works_inside_a_running_loop(valkey: ValkeyServer) -> None:
    with Fleet(valkey.url) as fleet:
        run = enqueued(fleet)
        assert run.cancel()
        assert [event.kind for event in run.events()] == ["state"]
        assert len(fleet.enqueue_many("kit.add", [{"x": 1}], queue=QUEUE)) == 1


async def test_the_fleets_own_thread_is_refused_and_may_collect_iterators() -> None:
    portal = Portal()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(600)

    async def collect() -> None:
        iterator = portal.iterate(numbers())
        with pytest.raises(WrongLoopError):
            next(iterator)

    items = portal.iterate(numbers())
    assert next(items) == 1
    forgotten = [items]
    del items

    async def forget() -> None:
        forgotten.clear()

    try:
        portal.call(collect())
        portal.call(forget())
    finally:
        portal.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_an_iterator_from_before_a_fork_is_refused_in_the_child(valkey: ValkeyServer) -> None:
    with Fleet(valkey.producer_url) as fleet:
        run = enqueued(fleet)
        asyncio.run(start(valkey, run))
        events = run.events()
        next(events)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_in_child, args=(run, events))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert run.status().id == run.id


def _in_child(run: RunHandle, events: Any) -> None:
    with pytest.raises(FleetClosedError, match="fork"):
        next(events)
    assert run.status().id == run.id


async def test_waiting_tasks_fail_when_their_fleet_is_closed(valkey: ValkeyServer) -> None:
    fleet = AsyncFleet(valkey.producer_url)
    run = await fleet.enqueue("kit.sleep", {"seconds": 1}, queue=QUEUE)

    async def follow() -> None:
        async for _ in run.events():
            pass

    waiting = [asyncio.create_task(work) for work in (run.result(), follow(), run.result(600))]
    await asyncio.sleep(0.1)
    await fleet.close()
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {FleetClosedError}
    with pytest.raises(FleetClosedError):
        await run.status()


VERBS: list[Callable[[AsyncFleet, AsyncRunHandle], Any]] = [
    lambda fleet, _: fleet.enqueue("kit.add", {"x": 1}, queue=QUEUE),
    lambda fleet, _: fleet.enqueue_many("kit.add", [{"x": 1}], queue=QUEUE),
    lambda fleet, _: fleet.runs(),
    lambda fleet, _: fleet.agents(),
    lambda _, run: run.status(),
    lambda _, run: run.result(timeout=600),
    lambda _, run: run.cancel(),
    lambda _, run: run.artifacts(),
    lambda _, run: run.read_artifact("a"),
    lambda _, run: anext(run.events()),
    lambda fleet, _: fleet.close(),
]


async def test_another_loop_is_refused_by_name_and_at_once(valkey: ValkeyServer) -> None:
    async with AsyncFleet(valkey.producer_url) as fleet:
        run = await fleet.enqueue("kit.add", {"x": 1}, queue=QUEUE)
        assert (await run.status()).id == run.id

        async def each() -> None:
            for verb in VERBS:
                with pytest.raises(WrongLoopError, match="of its own for each event loop"):
                    await verb(fleet, run)

        await asyncio.to_thread(asyncio.run, each())
        assert (await run.status()).id == run.id
        assert await run.cancel()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_fleet_moves_on_when_its_loop_was_closed(valkey: ValkeyServer) -> None:
    fleet = AsyncFleet(valkey.producer_url)

    async def use() -> AsyncRunHandle:
        run = await fleet.enqueue("kit.add", {"x": 1}, queue=QUEUE)
        await start(valkey, run)
        waiting = asyncio.create_task(run.result(timeout=600))
        assert (await anext(run.events())).kind == "state"
        await asyncio.sleep(0.05)
        waiting.cancel()
        return run

    async def again(run: AsyncRunHandle) -> None:
        assert (await run.status()).id == run.id
        await use()

    run = asyncio.run(use())
    asyncio.run(again(run))
    asyncio.run(fleet.close())
    with pytest.raises(FleetClosedError):
        asyncio.run(again(run))
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_fleet_whose_loop_is_gone_may_be_closed_on_another(valkey: ValkeyServer) -> None:
    fleet = AsyncFleet(valkey.producer_url)
    asyncio.run(_used(fleet))
    asyncio.run(fleet.close())
    gc.collect()


async def _used(fleet: AsyncFleet) -> None:
    await fleet.runs()
