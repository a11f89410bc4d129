"""Calls between synchronous Celery code and coroutines, in every pool.

- `run(coro)` awaits a coroutine from synchronous code. In `LoopPool` it waits without blocking
  the loop; in other pools the thread has its own loop, kept for its next call.
- `home_loop()` is the one long-lived loop of the process, for services that outlive a task.
- `home_watchdog()` is the watchdog of that loop.
- `at_home(coro)` awaits a coroutine on the home loop, from any loop.

A coroutine that another thread may have to cancel takes `asyncio.current_task()` and
`asyncio.get_running_loop()` when it starts; the other thread then calls
`loop.call_soon_threadsafe(task.cancel)`.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from greenlet import getcurrent

from skillfleet_engine.loop.greenlets import Driven, await_here
from skillfleet_engine.loop.host import LoopHost
from skillfleet_engine.loop.thread_loop import LoopThread, ThreadLoop
from skillfleet_engine.loop.watchdog import LoopWatchdog

T = TypeVar("T")

# Process-wide: synchronous code on any thread, which has no reference to a pool or worker, has to
# reach the process's loop. A forked child replaces all of it (`_forget_parents_loops`).
_host: LoopHost | None = None
_home: LoopThread | None = None
_home_lock = threading.Lock()
_of_thread = threading.local()
# Loops of the parent process: closing them here would unregister the parent's descriptors.
_inherited: list[object] = []


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine from synchronous code and return its result.

    The coroutine sees the caller's context variables (in a task of `LoopPool` it also changes
    them). Any thread may call this.

    Raises:
        RuntimeError: when called from a coroutine or a callback of a running loop; await instead.
        Exception: any error of the coroutine.
    """
    if isinstance(getcurrent(), Driven):
        return await_here(coro)
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, for such code
        coro.close()
        raise RuntimeError("run() was called where an event loop runs: await the coroutine instead")
    if _host is not None and _host.here:
        return _host.run(coro)
    return _thread_loop().run(coro)


def home_loop() -> asyncio.AbstractEventLoop:
    """Return the process's one long-lived loop; services and shared connections live on it.

    In `LoopPool` it is the pool's loop, from the signal `worker_process_init` on. In other pools
    it is a loop in a daemon thread, started at the first call, and again in a forked child. Any
    thread may call this; use `at_home` or `loop.call_soon_threadsafe` to run code there.
    """
    return _host.loop if _host is not None else _home_thread().loop


def home_watchdog(blocked_after: float) -> LoopWatchdog:
    """Return the watchdog of the home loop, in every pool.

    In `LoopPool` it is the pool's own, with the app's settings. In other pools it is started by the
    first call, which sets `blocked_after` (seconds).
    """
    if _host is not None and _host.watchdog is not None:
        return _host.watchdog
    home = _home_thread()
    with _home_lock:
        return home.watch(blocked_after)


async def at_home(coro: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine on the home loop and return its result, from any running loop.

    Cancelling this cancels the coroutine. Context variables are the caller's.
    """
    home = home_loop()
    if asyncio.get_running_loop() is home:
        return await coro
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, home))


def set_host(host: LoopHost | None) -> None:
    """Make a pool's loop the home loop of this process; None for no such pool."""
    global _host  # noqa: PLW0603 - one for each process
    _host = host


def _home_thread() -> LoopThread:
    global _home  # noqa: PLW0603 - one for each process
    with _home_lock:
        if _home is None:
            _home = LoopThread()
        return _home


def _thread_loop() -> ThreadLoop:
    found: ThreadLoop | None = getattr(_of_thread, "loop", None)
    if found is None:
        found = _of_thread.loop = ThreadLoop()
    return found


def _forget_parents_loops() -> None:
    global _host, _home, _home_lock, _of_thread
    parents: ThreadLoop | None = getattr(_of_thread, "loop", None)
    loop = parents.loop if parents is not None else None
    if _host is not None and _host.here:
        loop = _host.loop
    if loop is not None and not loop.is_closed():
        # It runs in this child only if a task's code forked and then returned.
        loop.call_soon(os._exit, 1)
    _inherited.append((_host, _home, parents))
    _host, _home = None, None
    _home_lock, _of_thread = threading.Lock(), threading.local()


os.register_at_fork(after_in_child=_forget_parents_loops)
