"""Health of a worker, checked in a thread that does not depend on its loops.

Celery's remote-control ping is not used: it does not test the loop that executes runs, and many
pings are a load of their own.
"""

import time
from http import HTTPStatus
from typing import Any, Protocol

from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.connection import ReplyError
from skillfleet_ledger.sync import Portal
from skillfleet_telemetry.http import Answer, Route
from skillfleet_worker.settings import WorkerSettings

_BLOCKED_FACTOR = 3
"""The multiple of `blocked_seconds` after which a blocked loop counts as dead."""
_PING_SECONDS = 2.0
TICK_SECONDS = 1.0


class Process(Protocol):
    """A process that executes runs, as far as its health needs it."""

    attempts: Any

    @property
    def last_turn(self) -> float:
        """The time of its home loop's last sign of life, by `time.monotonic`."""


class Worker(Protocol):
    """A worker, as far as its health needs it."""

    settings: WorkerSettings
    consumer: Any

    @property
    def process(self) -> Process | None:
        """The part that executes runs in this process; None when children do."""


class Health:
    """Health checks of the process that consumes messages. Any thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._limit = _BLOCKED_FACTOR * worker.settings.blocked_seconds
        self._ticked: float | None = None
        self._draining = False
        self._portal: Portal | None = None
        self._ledger: Ledger | None = None

    def routes(self) -> dict[str, Route]:
        """Return the probes by path."""
        return {
            "/startupz": lambda _: _verdict(self.not_started()),
            "/livez": lambda _: _verdict(self.not_live()),
            "/readyz": lambda _: _verdict(self.not_ready()),
        }

    def watch_consumer(self, consumer: Any) -> None:
        """Check the loop of Celery's consumer, too, from now on."""
        hub = getattr(consumer, "hub", None)
        if hub is not None:
            self._tick()
            hub.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def drain(self) -> None:
        """Report the worker as live but not ready: it shuts down."""
        self._draining = True

    def not_started(self) -> str | None:
        """Return why the worker has not started yet; None once it has."""
        return None if self._worker.consumer is not None else "the worker has not started yet"

    def not_live(self) -> str | None:
        """Return which loop is blocked; None if none is."""
        now = time.monotonic()
        process = self._worker.process
        if process is not None and now - process.last_turn > self._limit:
            return f"the event loop has not turned for {now - process.last_turn:.0f} s"
        # While the worker drains, Celery's consumer waits for the pool and does not turn.
        consumes = self._ticked is not None and not self._draining and self._connected()
        if consumes and now - (self._ticked or now) > self._limit:
            return f"the consumer has not turned for {now - (self._ticked or now):.0f} s"
        return None

    def not_ready(self) -> str | None:
        """Return why the worker takes no runs; None if it takes them."""
        if (why := self.not_started() or self.not_live()) is not None:
            return why
        if self._draining:
            return "the worker is shutting down"
        if not self._connected():
            return "the broker is unreachable"
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
