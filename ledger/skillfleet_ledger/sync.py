"""The thread and event loop on which a synchronous front runs the asynchronous code."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from importlib import import_module
from typing import Any, TypeVar

from skillfleet.errors import FleetClosedError, WrongLoopError

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    """Uvloop's where it happens to be installed: a quarter less processor time a call."""
    try:
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()
    return loop


class Portal:
    """An event loop in a daemon thread of this process. Any other thread may use it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = _new_loop()
        # Reentrant: while it is held, a forgotten iterator may be collected, which takes it, too.
        self._lock = threading.RLock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="skillfleet-portal", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; Ctrl-C cancels it.

        Raises FleetClosedError when the portal is or gets closed, or was made before a fork, and
        WrongLoopError on the portal's own thread, which would wait for itself.
        """
        future = self._start(work)
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise _was_closed() from None
            raise
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Iterate over an asynchronous generator that lives on the loop; errors as `call`."""

        async def step() -> tuple[bool, Any]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        try:
            while True:
                more, item = self.call(step())
                if not more:
                    return
                yield item
        finally:
            # Not waited for: a forgotten iterator may be collected on any thread, also the loop's.
            with contextlib.suppress(FleetClosedError):
                self._start(_close(items), anywhere=True)

    def close(self) -> None:
        """End what still runs, then the loop and the thread; who waits gets FleetClosedError."""
        if self.pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(_end_all(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, work: Coroutine[Any, Any, T], *, anywhere: bool = False) -> Future[T]:
        with contextlib.ExitStack() as stack:
            stack.callback(work.close)
            self._check(anywhere=anywhere)
            with self._lock:
                if self._closed:
                    raise _was_closed()
                stack.pop_all()
                return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _check(self, *, anywhere: bool) -> None:
        if self.pid != os.getpid():
            # The lock may have been held as the process forked: it is not asked for.
            raise _was_closed()
        if threading.current_thread() is self._thread and not anywhere:
            raise WrongLoopError("the fleet's own thread cannot wait for what it has to do")


async def _close(items: AsyncIterator[Any]) -> None:
    # One that is still being cancelled cannot be closed: the loop does that in the end.
    with contextlib.suppress(RuntimeError):
        await items.aclose()  # type: ignore[attr-defined]


async def _end_all() -> None:
    """Cancel all that runs on this loop and wait until it has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _was_closed() -> FleetClosedError:
    return FleetClosedError("this fleet was closed, or forked away from: make a new one")
