"""Access to the ledger without an event loop.

`BlockingLedger` and `run_sync` do single requests in the calling thread; `Portal` runs everything
else on an event loop in a separate thread.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from importlib import import_module
from typing import Any, TypeVar

from skillfleet.errors import FleetClosedError, WrongLoopError
from skillfleet_ledger.directory import Directory
from skillfleet_ledger.redis_client.blocking import BlockingConnection
from skillfleet_ledger.redis_client.protocol import connection_name
from skillfleet_ledger.runs.journals import Journals
from skillfleet_ledger.runs.queries import Queries
from skillfleet_ledger.runs.sessions import Sessions
from skillfleet_ledger.runs.submissions import Submissions
from skillfleet_ledger.runs.waits import Waits
from skillfleet_ledger.settings import Settings

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits only a blocking connection; on any thread.

    Raises RuntimeError for one that suspends.
    """
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("this work needs an event loop")


class BlockingLedger:
    """The part of the ledger that works without an event loop: new runs, answers, reads.

    Its coroutines never suspend: call them with `run_sync`. Any thread may use it, and a forked
    child. Arguments as for `Ledger`.
    """

    def __init__(self, settings: Settings, *, name: str = "skillfleet") -> None:
        self.settings = settings
        self.keys = settings.keyspace
        self.connection = BlockingConnection(
            settings.ledger_url,
            timeout=settings.redis_timeout_seconds,
            name=connection_name(name),
        )
        self.submissions = Submissions(self.connection, settings)
        self.queries = Queries(self.connection, settings)
        self.sessions = Sessions(self.connection, settings)
        self.journals = Journals(self.connection, settings)
        self.waits = Waits(self.connection, settings)
        self.directory = Directory(self.connection, settings)

    async def close(self) -> None:
        """Close the connection; later calls raise FleetClosedError."""
        await self.connection.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop loop where that is installed: a quarter less processor time per call."""
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
        # Reentrant: collecting an unused iterator while the lock is held takes it again.
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
        """Iterate over an asynchronous generator on the loop; errors as `call`."""

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
            # Not awaited: an unused iterator may be collected on any thread, also the loop's.
            with contextlib.suppress(FleetClosedError):
                self._start(_close(items), any_thread=True)

    def close(self) -> None:
        """Cancel running calls, then end loop and thread; callers get FleetClosedError."""
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

    def _start(self, work: Coroutine[Any, Any, T], *, any_thread: bool = False) -> Future[T]:
        with contextlib.ExitStack() as stack:
            stack.callback(work.close)
            self._check(any_thread=any_thread)
            with self._lock:
                if self._closed:
                    raise _was_closed()
                stack.pop_all()
                return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _check(self, *, any_thread: bool) -> None:
        if self.pid != os.getpid():
            # The lock is not taken: it may have been held when the process forked.
            raise _was_closed()
        if threading.current_thread() is self._thread and not any_thread:
            raise WrongLoopError(
                "the fleet's own thread cannot wait for work that it has to do itself"
            )


async def _close(items: AsyncIterator[Any]) -> None:
    # An iterator that is still being cancelled cannot be closed here: the loop does it at its end.
    with contextlib.suppress(RuntimeError):
        await items.aclose()  # type: ignore[attr-defined]


async def _end_all() -> None:
    """Cancel all tasks of this loop and wait for their ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _was_closed() -> FleetClosedError:
    return FleetClosedError("this fleet was closed, or forked away from: make a new one")
