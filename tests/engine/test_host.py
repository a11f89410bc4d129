"""Blocking code and an event loop share one thread."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from celery.exceptions import WorkerShutdown

from skillfleet_engine.loop.host import LoopHost


@pytest.fixture
def host() -> Iterator[LoopHost]:
    host = LoopHost()
    try:
        yield host
    finally:
        host.close()


async def count_iterations(iterations: list[int]) -> None:
    while True:
        iterations.append(len(iterations))
        await asyncio.sleep(0)


def test_the_loop_runs_only_while_the_blocking_code_waits(host: LoopHost) -> None:
    iterations: list[int] = []
    host.loop.create_task(count_iterations(iterations))
    host.pause(0)
    seen = len(iterations)
    time.sleep(0.01)
    assert len(iterations) == seen
    host.pause(0.01)
    assert len(iterations) > seen


def test_waiting_returns_the_result_or_raises_the_error(host: LoopHost) -> None:
    assert host.run(asyncio.sleep(0.001, "done")) == "done"
    future: asyncio.Future[None] = host.loop.create_future()
    host.loop.call_later(0.001, future.set_exception, LookupError("none"))
    with pytest.raises(LookupError):
        host.wait(future)


def test_a_pause_ends_when_it_is_woken(host: LoopHost) -> None:
    host.loop.call_later(0.001, host.wake)
    host.pause(600)


def test_the_loop_runs_while_work_is_offloaded(host: LoopHost) -> None:
    iterations: list[int] = []
    enough = threading.Event()

    async def iterate() -> None:
        while len(iterations) < 100:
            iterations.append(1)
            await asyncio.sleep(0)
        enough.set()

    host.loop.create_task(iterate())
    assert host.offload(enough.wait, 10)
    with pytest.raises(SystemExit):
        host.offload(exit_with, 3)


def exit_with(code: int) -> None:
    raise SystemExit(code)


def test_blocking_code_sees_no_running_loop(host: LoopHost) -> None:
    host.pause(0)
    assert asyncio.run(asyncio.sleep(0, "own loop")) == "own loop"
    assert host.run(asyncio.sleep(0, "host's loop")) == "host's loop"


def test_an_interruption_runs_in_the_waiting_code(host: LoopHost) -> None:
    def stop() -> None:
        assert host.run(asyncio.sleep(0.001, "it may wait")) == "it may wait"
        raise KeyboardInterrupt

    host.loop.call_later(0.001, host.interrupt, stop)
    with pytest.raises(KeyboardInterrupt):
        host.pause(600)
    assert host.run(asyncio.sleep(0, "still there")) == "still there"


def test_an_interrupted_wait_cancels_its_coroutine(host: LoopHost) -> None:
    cancelled: list[bool] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.append(True)

    def stop() -> None:
        raise KeyboardInterrupt

    host.loop.call_later(0.001, host.interrupt, stop)
    with pytest.raises(KeyboardInterrupt):
        host.run(wait_for_ever())
    host.pause(0.001)
    assert cancelled


def test_only_celerys_shutdown_exceptions_leave_the_loop(host: LoopHost) -> None:
    def shut_down() -> None:
        raise WorkerShutdown(0)

    host.loop.call_later(0.001, exit_with, 3)
    host.loop.call_later(0.01, shut_down)
    with pytest.raises(WorkerShutdown):
        host.pause(600)
    assert host.run(asyncio.sleep(0.001, "continues")) == "continues"


def test_only_the_loops_thread_may_wait(host: LoopHost) -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            host.pause(0.001)
        except RuntimeError as exc:
            errors.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert "event loop's thread" in str(errors[0])
    host.pause(0.01)


def test_closing_cancels_running_tasks(host: LoopHost) -> None:
    ended: list[bool] = []

    async def service() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(True)

    host.loop.create_task(service())
    host.pause(0)
    host.close()
    assert ended
    assert host.loop.is_closed()
