"""HTTP exporter of the fleet's demand, read from the ledger at each request."""

import signal
import threading
from collections.abc import Coroutine, Iterable, Sequence
from functools import reduce
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skillfleet.errors import FleetUnavailableError
from skillfleet_cli.exits import CommandError
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.queues import QueueStats, WaitingStats
from skillfleet_ledger.sync import Portal
from skillfleet_telemetry.http import Answer, HttpServer, Query, Route

QUEUE_METRICS = {
    "skillfleet_queue_queued": ("queued", "Runs that wait for a worker"),
    "skillfleet_queue_running": ("running", "Runs that a worker executes"),
    "skillfleet_queue_delayed": ("delayed", "Runs that wait for their start time"),
    "skillfleet_queue_unserved": ("unserved", "Runs whose skill no live worker serves"),
    "skillfleet_queue_due": ("due", "Delays, waits and schedules that end within half a minute"),
    "skillfleet_queue_oldest_age_seconds": (
        "oldest_age_seconds",
        "How long the queue's oldest run has waited",
    ),
}
"""Gauges by queue: the field of QueueStats, and its help text."""
WAITING_METRICS = {
    "skillfleet_runs_parked": ("parked", "Runs that wait for input without a worker"),
    "skillfleet_runs_parked_oldest_age_seconds": (
        "oldest_age_seconds",
        "How long the oldest of them has been parked",
    ),
    "skillfleet_waits_open": ("open_waits", "Open questions, receives and timers"),
}
"""Gauges of the fleet: the field of WaitingStats, and its help text."""
WORKERS = "skillfleet_workers"
EVICTED = "skillfleet_redis_evicted_keys"


def serve_demand(host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises CommandError when the port is taken."""
    demand = Demand(Settings.load())
    try:
        server = HttpServer(host, port, demand.routes())
    except (OSError, TypeError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"cannot listen on {host}:{port}: {reason}") from error
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server.start()
    stopped.wait()
    server.close()
    demand.close()


class Demand:
    """The exporter's routes over a ledger. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._portal = Portal()
        self._ledger = Ledger(settings, name="skillfleet-exporter")

    def close(self) -> None:
        """Close the connection."""
        self._portal.call(self._ledger.close())
        self._portal.close()

    def routes(self) -> dict[str, Route]:
        """Return the handlers by path."""
        return {
            "/healthz": lambda _: Answer.text("ok"),
            "/readyz": _guarded(self._ready),
            "/demand": _guarded(self._demand),
            "/queues": _guarded(self._queues),
            "/queues/": _guarded(self._queue),
            "/metrics": _guarded(self._metrics),
        }

    def _ready(self, _: Query) -> Answer:
        self._ask(self._ledger.connection.execute("PING", timeout=2))
        return Answer.text("ok")

    def _demand(self, query: Query) -> Answer:
        names = list(dict.fromkeys(query.parameters.get("queue", [])))
        if not names:
            return Answer.text("name a queue: /demand?queue=celery", HTTPStatus.BAD_REQUEST)
        total = reduce(QueueStats.plus, self._read(names))
        together = total.model_copy(update={"queue": ",".join(names)})
        return Answer.json(together.model_dump())

    def _queues(self, _: Query) -> Answer:
        return Answer.json([stats.model_dump() for stats in self._ask(self._all())])

    def _queue(self, query: Query) -> Answer:
        (stats,) = self._read([query.rest])
        return Answer.json(stats.model_dump())

    def _metrics(self, _: Query) -> Answer:
        queues = self._ask(self._all())
        registry = CollectorRegistry()
        waiting = self._ask(self._ledger.queues.waiting())
        registry.register(_Samples(families(queues, waiting, *self._ask(self._fleet()))))
        return Answer.metrics(generate_latest(registry))

    def _read(self, names: Sequence[str]) -> list[QueueStats]:
        """Read the queues of these names, empty ones included."""
        found = self._ask(self._ledger.queues.stats(names))
        return [stats for stats in found if stats.queue in names]

    async def _all(self) -> list[QueueStats]:
        """Read all queues that hold runs, and those of all known skills."""
        cards = await self._ledger.directory.catalogue()
        known = {card.queue for card in cards} | {self._ledger.settings.default_queue}
        return await self._ledger.queues.stats(known)

    async def _fleet(self) -> tuple[int, int]:
        """Return the numbers of live worker processes and of keys that Redis evicted."""
        workers = await self._ledger.directory.workers()
        info: bytes = await self._ledger.connection.execute("INFO", "stats")
        fields = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
        return len(workers), int(fields.get(b"evicted_keys", 0))

    def _ask(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._portal.call(work)


def families(
    queues: Sequence[QueueStats], waiting: WaitingStats, workers: int, evicted: int
) -> list[Metric]:
    """Return the exporter's metrics."""
    found: list[Metric] = []
    for name, (field, text) in QUEUE_METRICS.items():
        gauge = GaugeMetricFamily(name, text, labels=["queue"])
        for stats in queues:
            gauge.add_metric([stats.queue], getattr(stats, field))
        found.append(gauge)
    found += [
        GaugeMetricFamily(name, text, getattr(waiting, field))
        for name, (field, text) in WAITING_METRICS.items()
    ]
    found.append(GaugeMetricFamily(WORKERS, "Worker processes with a live heartbeat", workers))
    found.append(CounterMetricFamily(EVICTED, "Keys that Redis evicted: must stay 0", evicted))
    return found


class _Samples(Collector):
    """A collector of prepared metrics, for Prometheus's own formatter."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._found


def _guarded(route: Route) -> Route:
    """Wrap a route to answer 503 while the ledger cannot be reached."""

    def ask(query: Query) -> Answer:
        try:
            return route(query)
        except FleetUnavailableError as error:
            return Answer.text(str(error), HTTPStatus.SERVICE_UNAVAILABLE)

    return ask
