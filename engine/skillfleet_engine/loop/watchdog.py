"""Notices an event loop that does not turn, and says which code holds it up.

A thread asks the loop for a sign of life several times a second. Register for `loop_blocked` to
act on a loop that gives none:

    from skillfleet_engine.loop.watchdog import loop_blocked

    @loop_blocked.connect
    def recycle(report, **_): ...    # a BlockedReport; called in the watchdog's thread

While the loop stays blocked the signal is sent again every `blocked_after` seconds.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from celery.utils.dispatch import Signal

logger = logging.getLogger(__name__)

loop_blocked = Signal(name="loop_blocked", providing_args=["report"])

BEAT = 0.25
# A watchdog that woke up so late was stopped itself (SIGSTOP, a suspended machine).
STOPPED = 2.0


@dataclass(frozen=True, slots=True)
class BlockedReport:
    """A loop that stands still."""

    seconds: float
    """How long it has not turned."""
    task_id: str | None
    """The Celery task whose code holds it up; None when it is not a task's own code."""
    stack: str
    """Where the loop's thread is now, formatted like a traceback."""


class Watchdog:
    """Measures one loop from a thread of its own; its attributes may be read by any thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread_id: int,
        *,
        blocked_after: float,
        on_blocked: Callable[[BlockedReport], object],
        executing: Callable[[], str | None],
    ) -> None:
        """Watch a loop; it begins with `start`.

        Args:
            loop: the loop.
            thread_id: the thread it runs on, as `threading.get_ident` gives it.
            blocked_after: seconds without a turn until `on_blocked`; 0 for never.
            on_blocked: called in the watchdog's thread.
            executing: the id of the task whose code runs on the loop's thread right now.
        """
        self.last_turn = time.monotonic()
        """When the loop last gave a sign of life, by `time.monotonic`; for liveness probes."""
        self.lag_last = 0.0
        """Seconds the loop took to answer the last time."""
        self.lag_max = 0.0
        """The greatest of them since the start or the last `reset_max`."""
        self._loop = loop
        self._thread_id = thread_id
        self._blocked_after = blocked_after
        self._on_blocked = on_blocked
        self._executing = executing
        self._asked_at: float | None = None
        self._report_at = blocked_after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self.last_turn = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; afterwards nothing is reported."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def reset_max(self) -> float:
        """Return the greatest lag since the last call, and begin anew."""
        greatest, self.lag_max = self.lag_max, 0.0
        return greatest

    def _watch(self) -> None:
        woke = time.monotonic()
        while not self._stop.wait(BEAT):
            now = time.monotonic()
            if now - woke > STOPPED:
                self.last_turn = now
            woke = now
            if self._asked_at is None:
                self._asked_at = now
                self._loop.call_soon_threadsafe(self._answer, now)
            elif self._blocked_after and now - self.last_turn >= self._report_at:
                self._report_at += self._blocked_after
                self._report(now - self.last_turn)

    def _answer(self, asked_at: float) -> None:
        now = time.monotonic()
        self.last_turn = now
        self.lag_last = now - asked_at
        self.lag_max = max(self.lag_max, self.lag_last)
        self._report_at = self._blocked_after
        self._asked_at = None

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the documented way
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        try:
            self._on_blocked(BlockedReport(seconds, self._executing(), stack))
        except Exception:
            logger.exception("a hook for the blocked event loop failed")


class BlockedLog:
    """Logs reports, at most one in `every` seconds."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = 0.0

    def __call__(self, report: BlockedReport) -> None:
        """Log the report, unless the last one was logged a short while ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        culprit = f"task {report.task_id}" if report.task_id else "code outside of tasks"
        logger.error(
            "The event loop has not turned for %.1f s: %s blocks it, and with it all tasks of "
            "this process. Await instead of blocking, use asyncio.to_thread, or run the task in "
            "a prefork worker. It is here:\n%s",
            report.seconds,
            culprit,
            report.stack,
        )
