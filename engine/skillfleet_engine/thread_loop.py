"""Event loops for processes without `LoopPool`: one that turns in a thread, one for each thread."""

import asyncio
import atexit
import signal
import threading
import weakref
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import soft_timeout_sighandler

from skillfleet_engine.interrupt import Interruptible, awaiting
from skillfleet_engine.loops import close_loop, new_event_loop

T = TypeVar("T")


class LoopThread:
    """A loop that turns in a daemon thread until the process ends."""

    def __init__(self) -> None:
        self.loop = new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="home-loop", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    def _turn(self) -> None:
        self.loop.run_forever()
        close_loop(self.loop, 1.0)

    def _stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(2.0)


class ThreadLoop:
    """One loop, used by one thread for one coroutine after the other.

    It is closed when its thread or the process ends.
    """

    def __init__(self) -> None:
        self._loop = new_event_loop()
        weakref.finalize(self, close_loop, self._loop, 1.0)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await the coroutine to its end.

        What interrupts the waiting thread (the soft time limit of a prefork child, Ctrl+C) is
        raised inside the coroutine, so that it can clean up, and never leaves it half done.
        """
        body = Interruptible(coro)
        task = self._loop.create_task(awaiting(body))
        with _soft_limit_into(body, task, self._loop):
            try:
                return self._loop.run_until_complete(task)
            except BaseException as exc:
                if task.done():
                    raise
                body.interrupt(task, exc)
                return self._loop.run_until_complete(task)


@contextmanager
def _soft_limit_into(
    body: Interruptible[Any], task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop
) -> Iterator[None]:
    """Deliver the signal of prefork's soft time limit as an exception inside the coroutine."""
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGUSR1) if in_main else None
    if previous is not soft_timeout_sighandler:
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # Raising here would hit whatever runs now, often the loop's own code.
        loop.call_soon_threadsafe(body.interrupt, task, SoftTimeLimitExceeded())

    signal.signal(signal.SIGUSR1, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)
