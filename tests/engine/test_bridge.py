"""Synchronous code awaits coroutines: on threads, on the home loop, in greenlets."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import soft_timeout_sighandler

from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.greenlets import await_here, in_greenlet
from skillfleet_engine.loop.interrupt import Interruptible, awaiting

color = ContextVar("color", default="none")


async def loop_of() -> asyncio.AbstractEventLoop:
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


def test_a_thread_keeps_its_loop_between_runs() -> None:
    assert bridge.run(loop_of()) is bridge.run(loop_of())
    others: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: others.append(bridge.run(loop_of())))
    thread.start()
    thread.join()
    assert others[0] is not bridge.run(loop_of())


def test_the_loop_of_a_thread_is_closed_when_the_thread_ends() -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: loops.append(bridge.run(loop_of())))
    thread.start()
    thread.join()
    assert loops[0].is_closed()


def test_the_coroutine_sees_the_callers_context_and_its_errors_come_back() -> None:
    async def look() -> str:
        if color.get() == "none":
            raise LookupError("no color")
        return color.get()

    with pytest.raises(LookupError, match="no color"):
        bridge.run(look())
    token = color.set("green")
    assert bridge.run(look()) == "green"
    color.reset(token)


async def test_running_inside_a_running_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="await the coroutine instead"):
        bridge.run(asyncio.sleep(0))


async def test_at_home_brings_results_errors_and_context_back() -> None:
    async def at_work() -> tuple[asyncio.AbstractEventLoop, str]:
        return asyncio.get_running_loop(), color.get()

    color.set("red")
    loop, seen = await bridge.at_home(at_work())
    assert loop is bridge.home_loop()
    assert loop is not asyncio.get_running_loop()
    assert seen == "red"
    with pytest.raises(ZeroDivisionError):
        await bridge.at_home(divide_by_zero())


async def divide_by_zero() -> None:
    raise ZeroDivisionError


async def test_cancelling_at_home_cancels_the_coroutine_there() -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()

    task = asyncio.create_task(bridge.at_home(wait_for_ever()))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, 10)


def test_another_thread_can_cancel_a_run() -> None:
    def cancel_soon(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
        loop.call_soon_threadsafe(task.cancel)

    async def wait_for_ever() -> None:
        task = asyncio.current_task()
        assert task is not None
        threading.Thread(target=cancel_soon, args=(asyncio.get_running_loop(), task)).start()
        await asyncio.sleep(600)

    with pytest.raises(asyncio.CancelledError):
        bridge.run(wait_for_ever())
    assert bridge.run(asyncio.sleep(0, "next")) == "next"


@pytest.fixture
def soft_limit_signal() -> Iterator[None]:
    """Handle the signal of a soft time limit, as in a child of the prefork pool."""
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield
    assert signal.signal(signal.SIGUSR1, before) is soft_timeout_sighandler


@pytest.mark.usefixtures("soft_limit_signal")
def test_a_soft_time_limit_is_raised_at_the_coroutines_wait() -> None:
    async def clean_up() -> str:
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        try:
            await asyncio.sleep(600)
        except SoftTimeLimitExceeded:
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
            return "cleaned up"
        return "not limited"

    assert bridge.run(clean_up()) == "cleaned up"


def test_an_exception_out_of_a_signal_handler_reaches_the_coroutine() -> None:
    class AlarmError(Exception):
        pass

    def handle(number: int, frame: object) -> None:
        raise AlarmError

    async def clean_up() -> str:
        os.kill(os.getpid(), signal.SIGUSR2)
        try:
            await asyncio.sleep(600)
        except AlarmError:
            return "cleaned up"
        return "not disturbed"

    async def start() -> str:
        try:
            return await clean_up()
        except AlarmError:
            return "cleaned up"

    before = signal.signal(signal.SIGUSR2, handle)
    try:
        assert bridge.run(start()) == "cleaned up"
    finally:
        signal.signal(signal.SIGUSR2, before)


async def test_an_interrupted_coroutine_may_continue() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(600)
        except TimeoutError:
            async with asyncio.timeout(10):
                await asyncio.sleep(0.001)
            return "went on"
        return "never interrupted"

    body = Interruptible(stubborn())
    task = asyncio.create_task(awaiting(body))
    await asyncio.sleep(0)
    body.interrupt(task, TimeoutError())
    assert await task == "went on"
    assert task.cancelling() == 0


async def test_greenlets_wait_side_by_side_and_share_their_tasks_context() -> None:
    gate = asyncio.Event()
    waiting: list[str] = []

    def work(name: str) -> str:
        assert color.get() == "from the task"
        color.set(name)
        waiting.append(name)
        await_here(pass_gate())
        return color.get()

    async def pass_gate() -> None:
        name = color.get()
        await gate.wait()
        color.set(f"{name} and back")

    color.set("from the task")
    tasks = [asyncio.create_task(in_greenlet(lambda n=name: work(n))) for name in ("a", "b")]  # type: ignore[misc]
    while len(waiting) < 2 and not any(task.done() for task in tasks):  # noqa: ASYNC110
        await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*tasks) == ["a and back", "b and back"]


async def test_a_cancelled_greenlet_sees_it_where_it_waits() -> None:
    def work() -> str:
        try:
            await_here(asyncio.sleep(600))
        except asyncio.CancelledError:
            return "noticed"
        return "missed"

    task = asyncio.create_task(in_greenlet(work))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "noticed"


def test_waiting_outside_of_a_greenlet_is_refused() -> None:
    coro = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="in_greenlet"):
        await_here(coro)
    coro.close()
