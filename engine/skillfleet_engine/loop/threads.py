"""The threads that tasks use through `asyncio.to_thread` and `loop.run_in_executor(None, ...)`.

asyncio's own default executor has a handful of threads, whatever the number of slots. A thread
cannot be stopped from outside: one that hangs continues after its task was cancelled, and would
be missing for all later tasks.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celery.utils.dispatch import Signal

from skillfleet_engine.loop.forks import exit_if_forked
from skillfleet_engine.loop.watchdog import stack_of

logger = logging.getLogger(__name__)

threads_left: Any = Signal(name="threads_left", providing_args=["count"])
"""Sent when the number of threads that outlive their tasks changes; `count`: their number in this
executor. Sent in the thread where that happens: receivers must not wait."""

_FEWEST = 8
_MOST_LEFT = 500
"""The maximum number of hanging threads that are replaced."""
_REPORT_AFTER = 5.0


@dataclass(eq=False)
class Owner:
    """A task whose code uses threads; `id` is Celery's."""

    id: str | None
    over: bool = False


current_owner: ContextVar[Owner | None] = ContextVar("current_owner", default=None)
"""The task in whose context the current code runs."""


@dataclass(eq=False)
class _Work:
    owner: Owner
    thread_id: int = 0
    left_at: float | None = None
    reported: bool = False


class TaskThreads(ThreadPoolExecutor):
    """A default executor with one thread per slot, and one more for each thread that hangs.

    `slots` gives how many tasks may run at once.
    """

    _max_workers: int

    def __init__(self, slots: Callable[[], int]) -> None:
        super().__init__(max(slots(), _FEWEST), thread_name_prefix="task-thread")
        self._slots = slots
        self._works: set[_Work] = set()
        self._guard = threading.Lock()

    @property
    def left(self) -> int:
        """The number of threads that still execute code of ended tasks (any thread)."""
        with self._guard:
            return sum(work.left_at is not None for work in self._works)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Execute a function in a thread."""
        owner = current_owner.get()
        self._resize()
        if owner is None:
            return super().submit(fn, *args, **kwargs)
        return super().submit(self._work, _Work(owner), fn, args, kwargs)

    def over(self, owner: Owner) -> None:
        """Note that a task is over; replace the threads that it still occupies."""
        owner.over = True
        with self._guard:
            left = [work for work in self._works if work.owner is owner and work.left_at is None]
            for work in left:
                work.left_at = time.monotonic()
        if left:
            self._changed()
            timer = threading.Timer(_REPORT_AFTER, self._report)
            timer.daemon = True
            timer.start()

    def _report(self) -> None:
        """Log threads that hang, each once."""
        now = time.monotonic()
        with self._guard:
            hanging = [
                work
                for work in self._works
                if work.left_at is not None
                and not work.reported
                and now - work.left_at >= _REPORT_AFTER
            ]
            for work in hanging:
                work.reported = True
        for work in hanging:
            logger.error(
                "A thread of task %s still runs, though the task is over, and nothing can stop it."
                " There are %d such threads, of which at most %d are replaced. It is here:\n%s",
                work.owner.id,
                self.left,
                _MOST_LEFT,
                stack_of(work.thread_id),
            )

    def _work(self, work: _Work, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        pid = os.getpid()
        work.thread_id = threading.get_ident()
        with self._guard:
            self._works.add(work)
            if work.owner.over:
                work.left_at = time.monotonic()
        error: BaseException | None = None
        try:
            return fn(*args, **kwargs)
        except BaseException as exc:
            error = exc
            raise
        finally:
            exit_if_forked(pid, error)
            with self._guard:
                self._works.discard(work)
            if work.left_at is not None:
                self._changed()

    def _resize(self) -> None:
        # There is no public way; concurrent.futures reads this at each submission.
        self._max_workers = max(self._slots(), _FEWEST) + min(self.left, _MOST_LEFT)

    def _changed(self) -> None:
        self._resize()
        threads_left.send(sender=self, count=self.left)
        if self._work_queue.qsize():
            # A submission starts the new thread, which then takes the queued work.
            with suppress(RuntimeError):
                super().submit(int)
