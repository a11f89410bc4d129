"""Whether a worker is well, seen from a thread that does not depend on its loops.

Never asks through Celery: a remote-control ping says nothing of the loop that executes runs, and
many of them are a load of their own.
"""

import time
from http import HTTPStatus
from typing import Any, Protocol

from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.connection import ReplyError
from skillfleet_ledger.sync import Portal
from skillfleet_telemetry.http import Answer, Route
from skillfleet_worker.settings import WorkerSettings

_PATIENCE = 3
"""How many times `blocked_seconds` a loop may stand still until it counts as dead."""
_PING_SECONDS = 2.0
TICK_SECONDS = 1.0


class Process(Protocol):
    """An executing process, as far as its health and load show here."""

    attempts: Any

    @property
    def last_turn(self) -> float:
        """When its home loop last gave a sign of life, by `time.monotonic`."""


class Worker(Protocol):
    """A worker, as far as its health shows here."""

    settings: WorkerSettings
    consumer: Any

    @property
    def process(self) -> Process | None:
        """What executes runs in this very process; None when children do."""


class Health:
    """Belongs to the process that consumes messages. Any thread may ask."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._limit = _PATIENCE * worker.settings.blocked_seconds
        self._ticked: float | None = None
        self._draining = False
        self._portal: Portal | None = None
        self._ledger: Ledger | None = None

    def routes(self) -> dict[str, Route]:
        """The probes by path."""
        return {
            "/startupz": lambda _: _verdict(self.not_started()),
            "/livez": lambda _: _verdict(self.not_live()),
            "/readyz": lambda _: _verdict(self.not_ready()),
        }

    def watch_consumer(self, consumer: Any) -> None:
        """Celery's consumer is ready: from now on its own loop must turn, too."""
        hub = getattr(consumer, "hub", None)
        if hub is not None:
            self._tick()
            hub.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def drain(self) -> None:
        """The worker shuts down: alive, but not ready."""
        self._draining = True

    def not_started(self) -> str | None:
        """Why the worker has not started yet; None once it has."""
        return None if self._worker.consumer is not None else "the worker has not started yet"

    def not_live(self) -> str | None:
        """What stands still, if something does."""
        now = time.monotonic()
        process = self._worker.process
        if process is not None and now - process.last_turn > self._limit:
            return f"the event loop has not turned for {now - process.last_turn:.0f} s"
        # While it drains, Celery's consumer waits for the pool and need not turn.
        consumes = self._ticked is not None and not self._draining and self._connected()
        if consumes and now - (self._ticked or now) > self._limit:
            return f"the consumer has not turned for {now - (self._ticked or now):.0f} s"
        return None

    def not_ready(self) -> str | None:
        """Why the worker takes no runs, if it does not."""
        if (why := self.not_started() or self.not_live()) is not None:
            return why
        if self._draining:
            return "the worker shuts down"
        if not self._connected():
            return "the broker is out of reach"
        return self._cannot_reach_redis()

    def close(self) -> None:
        """Close the connection of the probes."""
        if self._portal is not None and self._ledger is not None:
            self._portal.call(self._ledger.close())
            self._portal.close()
            self._portal = self._ledger = None

    def _tick(self) -> None:
        self._ticked = time.monotonic()

    def _connected(self) -> bool:
        return getattr(self._worker.consumer, "connection", None) is not None

    def _cannot_reach_redis(self) -> str | None:
        if self._portal is None or self._ledger is None:
            self._portal = Portal()
            self._ledger = Ledger(self._worker.settings, name="skillfleet-probes")
        try:
            self._portal.call(self._ledger.connection.execute("PING", timeout=_PING_SECONDS))
        except (ReplyError, OSError) as error:
            return str(error)
        return None


def _verdict(problem: str | None) -> Answer:
    if problem is None:
        return Answer.text("ok")
    return Answer.text(problem, HTTPStatus.SERVICE_UNAVAILABLE)
