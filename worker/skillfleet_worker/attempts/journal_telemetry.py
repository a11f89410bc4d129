"""Spans and metrics of what a run records: its steps, waits and calls."""

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from skillfleet import semconv
from skillfleet.ports.journal import Entry
from skillfleet_telemetry.metrics import (
    JOURNAL_BYTES,
    STEPS,
    STEPS_REPLAYED,
    is_measured,
    record,
)
from skillfleet_telemetry.redaction import redact
from skillfleet_telemetry.tracing import tracing
from skillfleet_worker.attempts.attempt import Attempt

_NANOSECONDS = 1_000_000


def report_entry(attempt: Attempt, entry: Entry) -> None:
    """Report an entry that is recorded now; where the handler asked for it."""
    if is_measured():
        record(STEPS, 1, attempt.delivery.task)
        record(JOURNAL_BYTES, entry.size)
    if tracing.tracer is None:
        return
    attributes: dict[str, str | int] = {
        semconv.RUN_ID: attempt.run_id,
        semconv.ATTEMPT: attempt.lease.attempt,
        semconv.STEP_KIND: str(entry.kind),
        semconv.STEP_NAME: entry.name,
        semconv.STEP_NUMBER: entry.number,
        semconv.STEP_TRIES: entry.tries,
    }
    span = tracing.tracer.start_span(
        f"{entry.kind} {entry.name}",
        kind=trace.SpanKind.INTERNAL,
        attributes=attributes,
        start_time=entry.started_ms * _NANOSECONDS,
    )
    if entry.failure is not None:
        span.set_attribute(semconv.ERROR_TYPE, entry.failure.type)
        span.set_status(StatusCode.ERROR, redact(entry.failure.message))
    span.end((entry.started_ms + entry.duration_ms) * _NANOSECONDS)


def report_replayed(attempt: Attempt, entries: int) -> None:
    """Report that an attempt continues from so many entries."""
    if entries:
        record(STEPS_REPLAYED, entries, attempt.delivery.task)
