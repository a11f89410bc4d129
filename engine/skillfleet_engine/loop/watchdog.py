"""Detection of a blocked event loop, and of the code that blocks it.

A thread asks the loop for a sign of life several times a second. Connect to `loop_blocked` to
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
"""Sent in the watchdog's thread; sender: the LoopWatchdog, report: a BlockedReport."""

BEAT = 0.25
# A watchdog that wakes up this late was stopped itself (SIGSTOP, a suspended machine).
STOPPED = 2.0
_LOG_EVERY = 60.0

Executing = Callable[[], str | None]
"""Returns the id of the task whose code runs on the loop's thread now; None if unknown."""


@dataclass(frozen=True, slots=True)
class BlockedReport:
    """A blocked loop, at one moment."""

    seconds: float
    """The time that the loop has been blocked."""
    task_id: str | None
    """The id of the task whose code blocks it; None when no task is known to."""
    stack: str
    """The current stack of the loop's thread, formatted like a traceback."""


class LoopWatchdog:
    """A thread that measures one loop; any thread may read its attributes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread_id: int,
        *,
        blocked_after: float,
        log_every: float = _LOG_EVERY,
    ) -> None:
        """Prepare to watch a loop; `start` begins.

        Args:
            loop: the loop.
            thread_id: the thread it runs on, as `threading.get_ident` gives it.
            blocked_after: seconds without a sign of life until it counts as blocked; 0 for never.
            log_every: the shortest time between two log lines about it, in seconds.
        """
        self.last_turn = time.monotonic()
        """The time of the loop's last sign of life, by `time.monotonic`; for liveness probes."""
        self.lag_last = 0.0
        """Seconds the loop took to answer the last time."""
        self.lag_max = 0.0
        """The greatest of them since the start or the last `reset_max`."""
        self._loop = loop
        self._thread_id = thread_id
        self._blocked_after = blocked_after
        self._log = BlockedLog(log_every)
        self._executing: list[Executing] = []
        self._asked_at: float | None = None
        self._resumed_at = 0.0
        self._report_at = blocked_after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)

    @property
    def blocked_seconds(self) -> float:
        """Seconds since the loop's last sign of life; under 0.5 for a loop that runs."""
        return time.monotonic() - self.last_turn

    def start(self) -> None:
        """Begin to watch."""
        self.last_turn = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; afterwards nothing is reported."""
        self._stop.set()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join()

    def name_tasks_by(self, executing: Executing) -> None:
        """Ask `executing` for the blocking task from now on, before those that were given before.

        It is called in the watchdog's thread.
        """
        self._executing.insert(0, executing)

    def executing(self) -> str | None:
        """Return the id of the task whose code runs on the loop's thread now; None if unknown."""
        names = (executing() for executing in self._executing)
        return next((name for name in names if name is not None), None)

    def reset_max(self) -> float:
        """Return the greatest lag since the last call, and reset it."""
        greatest, self.lag_max = self.lag_max, 0.0
        return greatest

    def _watch(self) -> None:
        woke = time.monotonic()
        while not self._stop.wait(BEAT):
            now = time.monotonic()
            if now - woke > STOPPED:
                self._resumed_at = now
            woke = now
            if self._asked_at is None:
                self._asked_at = now
                try:
                    self._loop.call_soon_threadsafe(self._answer, now)
                except RuntimeError:
                    # The loop was closed: it will never answer.
                    return
            elif self._blocked_after:
                blocked = now - max(self.last_turn, self._resumed_at)
                if blocked >= self._report_at:
                    self._report_at += self._blocked_after
                    self._report(blocked)

    def _answer(self, asked_at: float) -> None:
        now = time.monotonic()
        self.last_turn = now
        self.lag_last = now - asked_at
        self.lag_max = max(self.lag_max, self.lag_last)
        self._report_at = self._blocked_after
        self._asked_at = None

    def _report(self, seconds: float) -> None:
        report = BlockedReport(seconds, self.executing(), stack_of(self._thread_id))
        self._log(report)
        loop_blocked.send(sender=self, report=report)


class BlockedLog:
    """Logs reports, at most one in `every` seconds."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = 0.0

    def __call__(self, report: BlockedReport) -> None:
        """Log the report, unless one was logged within the last `every` seconds."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        culprit = f"task {report.task_id}" if report.task_id else "code of no known task"
        logger.error(
            "The event loop has been blocked for %.1f s by %s, and with it all tasks of this "
            "process. Await instead of blocking, use asyncio.to_thread, or run the task in a "
            "prefork worker. Stack:\n%s",
            report.seconds,
            culprit,
            report.stack,
        )


def stack_of(thread_id: int) -> str:
    """Return the current stack of a thread, formatted like a traceback."""
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001 - the documented way
    return "".join(traceback.format_stack(frame)) if frame is not None else "(it has ended)"
