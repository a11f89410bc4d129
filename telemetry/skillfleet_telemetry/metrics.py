"""Table of a worker's metrics, and `record`, which the worker calls.

Names and units are OpenTelemetry's; Prometheus shows `skillfleet.run.duration` in `s` as
`skillfleet_run_duration_seconds`. Labels are bounded: no ids, no texts. docs/telemetry.md shows
this table; a test compares the two.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

SECONDS = "s"
_RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_FAST_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `labels` are given to `record` by position, and after them those of tags.

    `at_zero` holds the label values that a counter exposes before anything was counted:
    Prometheus sees no increase in a series that begins with 1.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    at_zero: tuple[tuple[str, ...], ...] = ()

    @property
    def prometheus(self) -> str:
        """The name in Prometheus's exposition, without the suffixes of a histogram."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        total = "_total" if self.kind == "counter" else ""
        return self.name.replace(".", "_") + unit + total


def _counter(name: str, unit: str, description: str, *labels: str) -> Metric:
    at_zero = () if labels else ((),)
    return Metric(name, "counter", unit, description, labels, at_zero=at_zero)


def _timing(name: str, buckets: tuple[float, ...], description: str, *labels: str) -> Metric:
    return Metric(name, "histogram", SECONDS, description, labels, buckets)


RUNS = _counter("skillfleet.runs", "{run}", "Runs that ended", "skill", "outcome")
RUN_DURATION = _timing(
    "skillfleet.run.duration", _RUN_BUCKETS, "From claim to settled", "skill", "outcome"
)
QUEUE_WAIT = _timing(
    "skillfleet.run.queue_wait", _RUN_BUCKETS, "From published to claimed", "skill"
)
IN_FLIGHT = Metric("skillfleet.runs.in_flight", "gauge", "{run}", "Runs in execution")
RETRIES = _counter("skillfleet.retries", "{attempt}", "Attempts that ended in a retry", "skill")
RELEASES = _counter(
    "skillfleet.releases", "{attempt}", "Attempts returned to the queue, not counted", "skill"
)
PARKS = _counter("skillfleet.parks", "{attempt}", "Attempts that ended in a parked run", "skill")
STEPS = _counter("skillfleet.steps", "{step}", "Steps, waits and calls that were recorded", "skill")
STEPS_REPLAYED = _counter(
    "skillfleet.steps.replayed", "{step}", "Recorded steps that a further attempt read", "skill"
)
JOURNAL_BYTES = _counter("skillfleet.journal.size", "By", "Recorded results")
WAIT_DURATION = _timing(
    "skillfleet.wait.duration",
    _RUN_BUCKETS,
    "From opened to decided, of waits that ended in memory",
    "kind",
)
SCHEDULED = _counter(
    "skillfleet.schedule.runs", "{run}", "Runs of schedules that were due", "outcome"
)
SCHEDULE_LAG = _timing(
    "skillfleet.schedule.lag", _RUN_BUCKETS, "From due to enqueued, of runs of schedules"
)
LEASES_LOST = _counter("skillfleet.leases.lost", "{lease}", "Leases that ran out")
DUPLICATES = _counter(
    "skillfleet.duplicates.dropped",
    "{message}",
    "Messages that did not lead to an attempt",
    "status",
)
DEAD_LETTERS = Metric(
    "skillfleet.dead_letters",
    "counter",
    "{run}",
    "Dead runs and dead-lettered messages",
    ("kind",),
    at_zero=(("run",), ("message",)),
)
CANCEL_LATENCY = _timing(
    "skillfleet.cancel.latency", _FAST_BUCKETS, "From the cancellation to the run's end", "skill"
)
EVENTS = _counter("skillfleet.events", "{event}", "Events written to streams")
EVENT_BYTES = _counter("skillfleet.event.size", "By", "Payload of those events")
EVENT_FLUSH = _timing("skillfleet.event.flush", _FAST_BUCKETS, "Writing one batch of events")
SETTLE = _timing("skillfleet.run.settle", _FAST_BUCKETS, "Writing an attempt's outcome")
LOOP_LAG = Metric(
    "skillfleet.loop.lag",
    "gauge",
    SECONDS,
    "Longest delay of the event loop since the last collection",
)
THREADS_LEFT = Metric(
    "skillfleet.threads.left", "gauge", "{thread}", "Threads that outlive the runs that used them"
)
REAPER_WORK = _counter("skillfleet.reaper.runs", "{run}", "Runs the reaper acted on", "work")
REDIS_ERRORS = _counter(
    "skillfleet.redis.errors",
    "{error}",
    "Operations that failed: Redis was unreachable",
    "operation",
)
TELEMETRY_LOST = _counter(
    "skillfleet.telemetry.lost", "{span}", "Spans that were not exported", "reason"
)
MODEL_TOKENS = Metric(
    "gen_ai.client.token.usage",
    "histogram",
    "{token}",
    "Tokens of recorded model calls",
    ("gen_ai.provider.name", "gen_ai.request.model", "gen_ai.token.type"),
    _TOKEN_BUCKETS,
)
MODEL_DURATION = _timing(
    "gen_ai.client.operation.duration",
    _RUN_BUCKETS,
    "Recorded model and tool calls",
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
)

TABLE: tuple[Metric, ...] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Metric)
)

Gauges = Mapping[Metric, Callable[[], float | None]]
"""The sources of gauges, called at each collection; None for no value."""
Sink = Callable[[Metric, float, tuple[str, ...]], None]


def _discard(metric: Metric, value: float, labels: tuple[str, ...]) -> None:
    """Discard a measurement: no reader is configured."""


_sink: Sink = _discard


def record(metric: Metric, value: float = 1, *labels: str) -> None:
    """Add to a counter, observe a value, or set a gauge. Any thread; never raises or waits."""
    _sink(metric, value, labels)


def send_to(sink: Sink | None) -> None:
    """Set the sink of this process's measurements; None discards them."""
    global _sink  # noqa: PLW0603 - one for each process
    _sink = sink or _discard


def is_measured() -> bool:
    """Return whether measurements are recorded."""
    return _sink is not _discard


_MAX_NAMES = 100
_names: defaultdict[str, set[str]] = defaultdict(set)


def bounded(name: str | None, kind: str = "") -> str:
    """Return a label for a name that users choose; after the first hundred it is `other`.

    Names of each `kind` are counted apart.
    """
    if name is None:
        return ""
    known = _names[kind]
    if name not in known:
        if len(known) >= _MAX_NAMES:
            return "other"
        known.add(name)
    return name


def tag_labels(tags: Mapping[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    """Return a run's tags with these keys as further labels for `record`: `tag.KEY=VALUE`.

    There is one for each key, as all series of a metric have the same labels.
    """
    return tuple(f"tag.{key}={bounded(tags.get(key), key)}" for key in keys)
