"""Event loops for processes without `LoopPool`: one in a thread, and one per calling thread."""

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
from celery import current_task

from skillfleet_engine.loop.interrupt import Interruptible, awaiting
from skillfleet_engine.loop.loops import close_loop, new_event_loop, report_exit, run_until_stopped
from skillfleet_engine.loop.threads import Owner, TaskThreads, current_owner
from skillfleet_engine.loop.watchdog import LoopWatchdog

T = TypeVar("T")

_INTERRUPTING = (signal.SIGINT, signal.SIGTERM)


class LoopThread:
    """A loop that runs in a daemon thread until the process ends."""

    def __init__(self) -> None:
        self.loop = new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="home-loop", daemon=True)
        self._thread.start()
        self._watchdog: LoopWatchdog | None = None
        atexit.register(self._stop)

    def watch(self, blocked_after: float) -> LoopWatchdog:
        """Return the loop's watchdog, started at the first call; one thread at a time."""
        if self._watchdog is None:
            thread_id = self._thread.ident or 0
            self._watchdog = LoopWatchdog(self.loop, thread_id, blocked_after=blocked_after)
            self._watchdog.start()
        return self._watchdog

    def _run_loop(self) -> None:
        run_until_stopped(self.loop)
        close_loop(self.loop, 1.0)

    def _stop(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(2.0)


class ThreadLoop:
    """A loop that one thread uses for one coroutine after the other.

    It is closed when its thread or the process ends.
    """

    def __init__(self) -> None:
        self.loop = new_event_loop()
        self._threads = TaskThreads(lambda: 1)
        self.loop.set_default_executor(self._threads)
        weakref.finalize(self, close_loop, self.loop, 1.0)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await the coroutine to its end.

        An interruption of the waiting thread (the soft time limit of a prefork child, Ctrl+C) is
        raised inside the coroutine, so that it can clean up.
        """
        owner = Owner(_current_task_id())
        before = current_owner.set(owner)
        try:
            return self._run(Interruptible(coro))
        finally:
            current_owner.reset(before)
            self._threads.over(owner)

    def _run(self, body: Interruptible[T]) -> T:
        task = self.loop.create_task(awaiting(body))
        with _noting_signals() as raised, _soft_limit_into(body, task, self.loop):
            while True:
                try:
                    return self.loop.run_until_complete(task)
                except BaseException as exc:
                    if not task.done():
                        self._interrupted(exc, body, task, by_signal=exc in raised)
                    elif exc in raised or task.cancelled() or task.exception() is exc:
                        raise
                    else:
                        return task.result()

    def _interrupted(
        self,
        error: BaseException,
        body: Interruptible[Any],
        task: "asyncio.Task[Any]",
        *,
        by_signal: bool,
    ) -> None:
        """Raise an error that left the loop inside the coroutine, which is not done yet."""
        if by_signal or not isinstance(error, SystemExit | KeyboardInterrupt):
            body.interrupt(task, error)
        else:
            # From a child task or a callback: the code that awaits it gets it there.
            report_exit(error)


def _current_task_id() -> str | None:
    return current_task.request.id if current_task else None


@contextmanager
def _noting_signals() -> Iterator[list[BaseException]]:
    """Collect the errors that the handlers of Ctrl+C and SIGTERM raise in this thread."""
    raised: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield raised
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in _INTERRUPTING}

    def note(number: int, frame: FrameType | None) -> None:
        handler = handlers[number]
        try:
            if callable(handler):
                handler(number, frame)
        except BaseException as error:
            raised.append(error)
            raise

    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, note)
    try:
        yield raised
    finally:
        for number, handler in ours.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)


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
        # Raised here, it would hit the code that runs now, often the loop's own.
        loop.call_soon_threadsafe(body.interrupt, task, SoftTimeLimitExceeded())

    signal.signal(signal.SIGUSR1, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)
