"""Worker process: the running attempts of one executing process, and what they share.

In the event-loop and threads pools there is one for the worker, with prefork one for each child.
It lives on the home loop of its process.
"""

import asyncio
import logging
import os
import random
import socket
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.watchdog import LoopWatchdog
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_producer.publisher import Publisher, publish_woken_runs, publisher_for
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.stop_request import SHUTS_DOWN
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_EARLY_SECONDS = 10.0


def name_of(pid: int) -> str:
    """Return how the name of this machine's worker process with that id begins."""
    return f"{socket.gethostname()}:{pid}-"


class WorkerProcess:
    """The services that all attempts of a process share. Create it on the home loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.name = f"{name_of(os.getpid())}{uuid.uuid4().hex[:8]}"
        self.ledger = Ledger(settings, name="skillfleet-worker", patient=True)
        self.publisher: Publisher = publisher_for(self.ledger)
        publish_woken_runs(self.ledger, self.publisher)
        self.attempts: dict[str, Attempt] = {}
        """The running attempts by run id. Other modules only read it."""
        self.random = random.SystemRandom()
        self.background_services: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Further services that run as long as the process; add them before it starts."""
        self.show_end: Callable[[str, str, RunEnd], None] = lambda *_: None
        """Reports the end of a run (id, name) that no worker executes to monitors."""
        self.home = asyncio.get_running_loop()
        self.loop_watchdog: LoopWatchdog = bridge.home_watchdog(settings.blocked_seconds)
        self.loop_watchdog.name_tasks_by(self.executing)
        self._draining = False
        self._release: asyncio.TimerHandle | None = None
        self._release_at = float("inf")
        self._releasing = False
        self._early_cancels: dict[str, tuple[str, str]] = {}

    @property
    def draining(self) -> bool:
        """True once the process takes no more runs."""
        return self._draining

    @property
    def last_turn(self) -> float:
        """The time of the home loop's last sign of life, by `time.monotonic`. Any thread."""
        return self.loop_watchdog.last_turn

    def loop_time(self) -> float:
        """Return the home loop's time. Any thread."""
        return self.home.time()

    def oldest_started(self) -> float | None:
        """Return when the oldest run started, by `time.monotonic`; None without a run."""
        return min((attempt.started_at for attempt in self.attempts.values()), default=None)

    def executing(self) -> str | None:
        """Return the run whose handler executes on the home loop now, if known. Any thread."""
        task = asyncio.current_task(self.home)
        attempts = tuple(self.attempts.values())
        owners = (a.run_id for a in attempts if a.handler is not None and a.handler is task)
        return next(owners, None)

    def begin(self, attempt: Attempt) -> None:
        """Add an attempt; an older one of the same run has lost its lease. Any thread."""
        former = self.attempts.get(attempt.run_id)
        if former is not None:
            former.lose()
        self.attempts[attempt.run_id] = attempt
        if self._draining:
            attempt.begin_shutdown()
        if self._releasing:
            attempt.request_stop(SHUTS_DOWN)
        if (cancellation := self._early_cancels.pop(attempt.run_id, None)) is not None:
            attempt.cancel(*cancellation)

    def end(self, attempt: Attempt) -> None:
        """Remove an attempt that has ended. Any thread."""
        if self.attempts.get(attempt.run_id) is attempt:
            del self.attempts[attempt.run_id]

    def cancel(self, run_id: str, reason: str, code: str) -> None:
        """Cancel the run's attempt, also one that begins within the next seconds."""
        # Stored first, looked up then: `begin`, in another thread, does it the other way round.
        self._early_cancels[run_id] = (reason, code)
        if (attempt := self.attempts.get(run_id)) is not None:
            self._early_cancels.pop(run_id, None)
            attempt.cancel(reason, code)
        else:
            self.home.call_later(_EARLY_SECONDS, self._early_cancels.pop, run_id, None)

    def wake(self, run_id: str) -> None:
        """Have the run's attempt read its waits again: one may be decided."""
        if (attempt := self.attempts.get(run_id)) is not None:
            attempt.waiting.check()

    def drain(self, seconds: float | None = None) -> None:
        """Take no more runs; release those that still run after `seconds`."""
        seconds = self.settings.drain_seconds if seconds is None else seconds
        logger.info("draining: %d runs have %g s to finish", len(self.attempts), seconds)
        self._draining = True
        for attempt in list(self.attempts.values()):
            attempt.begin_shutdown()
        # The faster one of two drains counts, in whatever order they come.
        self._release_at = min(self._release_at, self.home.time() + seconds)
        if self._release is not None:
            self._release.cancel()
        self._release = self.home.call_at(self._release_at, self._release_all)

    async def close(self) -> None:
        """Take no more runs and close the connections."""
        self._draining = True
        await self.publisher.close()
        await self.ledger.close()

    def _release_all(self) -> None:
        self._releasing = True
        for attempt in list(self.attempts.values()):
            attempt.request_stop(SHUTS_DOWN)
