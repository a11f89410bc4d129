"""Spans, metrics and the log line of one attempt.

process <queue>        CONSUMER, from the claim to the settled outcome
  invoke_agent <agent> INTERNAL, the handler's time; spans that the handler starts are below it
"""

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from contextvars import Token
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, assert_never

import orjson
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer

from skillfleet import semconv
from skillfleet.contracts import Attempt as ListedAttempt
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.runs.queries import LostRun, Queries
from skillfleet_producer.tracing import run_trace_id
from skillfleet_telemetry.ids import NextIds, span_id
from skillfleet_telemetry.logs import FIELDS, log_fields, run_logger
from skillfleet_telemetry.metrics import (
    CANCEL_LATENCY,
    IN_FLIGHT,
    PARKS,
    QUEUE_WAIT,
    RELEASES,
    RETRIES,
    RUN_DURATION,
    RUNS,
    SETTLE,
    is_measured,
    record,
    tag_labels,
)
from skillfleet_telemetry.open_spans import OpenSpans, close_all, in_attempt
from skillfleet_telemetry.redaction import redact
from skillfleet_telemetry.tracing import tracing
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Parked,
    Released,
    Retry,
    Succeeded,
    TimedOut,
)

logger = logging.getLogger(__name__)

PROCESS, INVOKE = "process", "invoke"
_WITHOUT_END = {"retry": RETRIES, "released": RELEASES, "parked": PARKS}
_open: set["AttemptTelemetry"] = set()


class _Identity(NamedTuple):
    """The run and attempt that a span belongs to; `trace` holds the message's W3C headers."""

    run_id: str
    root_id: str
    agent: str
    skill: str
    queue: str
    trace: Mapping[str, str]
    trace_id: str
    """The run's trace, 32 hexadecimal digits."""
    attempt: int
    tags: Mapping[str, str]
    """Those of the run's tags that telemetry carries."""
    waited_ms: int = 0


class AttemptTelemetry:
    """Reports one attempt; a context manager around its execution and settlement.

    Belongs to the context (task or greenlet) that executes the attempt.
    """

    def __init__(self, attempt: Attempt, claimed_ns: int, tag_keys: Sequence[str] = ()) -> None:
        """`claimed_ns` is when the claim was sent, nanoseconds since the epoch.

        `tag_keys` are the keys of the tags that telemetry carries.
        """
        self._attempt = attempt
        self._identity = _identity_of(attempt, tag_keys)
        self._tag_labels = tag_labels(attempt.lease.tags, tag_keys)
        self._claimed_ns = claimed_ns
        self._executed_ns = 0
        self._attached: Token[Context] | None = None
        self._collecting: Token[OpenSpans | None] | None = None
        self._tracer = tracing.tracer
        self._process: Span = trace.INVALID_SPAN
        self._invoke: Span = trace.INVALID_SPAN
        self._spans: OpenSpans = {}

    def __enter__(self) -> Self:
        identity = self._identity
        log_fields().update(
            run_id=identity.run_id,
            skill=identity.skill,
            attempt=identity.attempt,
            trace_id=identity.trace_id,
        )
        if identity.tags:
            log_fields().update(tags=identity.tags)
        record(QUEUE_WAIT, identity.waited_ms / 1000, identity.skill, *self._tag_labels)
        if self._tracer is not None:
            self._start_spans(self._tracer)
        elif identity.trace:
            self._attach(propagate.extract(identity.trace, Context()))
        _open.add(self)
        record(IN_FLIGHT, len(_open))
        return self

    def executed(self, outcome: Outcome) -> None:
        """Record the end of the handler: end its span and those still open below it."""
        self._executed_ns = time.time_ns()
        self._leave_scope()
        close_all(self._spans, failed=not isinstance(outcome, Succeeded | Parked))
        if self._invoke.is_recording():
            _describe(self._invoke, outcome)
            if not isinstance(outcome, Lost):
                self._invoke.end()

    def settled(self, outcome: Outcome, flushed_ns: int | None) -> None:
        """Record the settled outcome; `flushed_ns` is when the last events were written."""
        now_ns = time.time_ns()
        process = self._process
        if process.is_recording():
            if flushed_ns is not None:
                process.add_event("flushed", timestamp=flushed_ns)
            _describe(process, outcome, with_error=False)
            # The worker that takes a lost run over records this attempt's spans.
            if not isinstance(outcome, Lost):
                process.end(now_ns)
        if is_measured():
            self._measure(outcome.name, now_ns)
        if run_logger.isEnabledFor(logging.INFO):
            self._log(outcome, now_ns)

    def abandon(self, reason: str) -> None:
        """End all spans, because the process ends before the attempt does. Any thread."""
        close_all(self._spans, failed=True)
        for span in (self._invoke, self._process):
            if span.is_recording():
                span.set_status(StatusCode.ERROR, reason)
                span.set_attribute(semconv.OUTCOME, "released")
                span.end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_back: TracebackType | None,
    ) -> None:
        _open.discard(self)
        record(IN_FLIGHT, len(_open))
        self._leave_scope()
        if error is not None:
            self.abandon(repr(error))

    def _start_spans(self, tracer: Tracer) -> None:
        self._process, parent = _start_process_span(tracer, self._identity, self._claimed_ns)
        self._invoke = _start_invoke_span(tracer, self._identity, parent)
        self._attach(trace.set_span_in_context(self._invoke, parent))
        self._collecting = in_attempt.set(self._spans)

    def _attach(self, context: Context) -> None:
        self._attached = otel_context.attach(context)

    def _leave_scope(self) -> None:
        if self._collecting is not None:
            in_attempt.reset(self._collecting)
            self._collecting = None
        if self._attached is not None:
            otel_context.detach(self._attached)
            self._attached = None

    def _measure(self, label: str, now_ns: int) -> None:
        skill = self._identity.skill
        if self._executed_ns:
            record(SETTLE, (now_ns - self._executed_ns) / 1e9)
        if label in _WITHOUT_END:
            record(_WITHOUT_END[label], 1, skill)
        elif label != "lost":
            labels = (skill, label, *self._tag_labels)
            record(RUNS, 1, *labels)
            record(RUN_DURATION, (now_ns - self._claimed_ns) / 1e9, *labels)
        if label == "cancelled" and self._attempt.stop_requested_at is not None:
            record(CANCEL_LATENCY, time.monotonic() - self._attempt.stop_requested_at, skill)

    def _log(self, outcome: Outcome, now_ns: int) -> None:
        """Write the one line of this attempt."""
        fields: dict[str, Any] = {
            "state": outcome.name,
            "duration": round((now_ns - self._claimed_ns) / 1e9, 6),
            "queue_wait": self._identity.waited_ms / 1000,
        }
        if outcome.message:
            fields["reason"] = outcome.message
        if (error_type := _error_type(outcome)) is not None:
            fields["code"] = error_type
        run_logger.info("run %s", outcome.name, extra={FIELDS: fields})


def abandon_all(reason: str) -> None:
    """End the spans of all attempts of this process, which is about to end. Any thread."""
    for telemetry in list(_open):
        telemetry.abandon(reason)


async def record_lost_attempt(queries: Queries, run_id: str, tag_keys: Sequence[str]) -> None:
    """Record the spans of an attempt that died with its worker, after its lease was taken away."""
    if tracing.tracer is None:
        return
    try:
        run = await queries.lost_run(run_id)
    except FleetUnavailableError as error:
        logger.debug("the lost attempt of run %s has no spans: %s", run_id, error)
        return
    attempts = run.status.attempts if run is not None else ()
    lost = next((a for a in reversed(attempts) if a.outcome == "lost"), None)
    if run is not None and lost is not None:
        _record_lost(run, lost, tag_keys)


def record_dead_attempt(run: LostRun, tag_keys: Sequence[str]) -> None:
    """Do the same for a run that the reaper has ended; `run` is from before its end."""
    attempts = run.status.attempts
    if attempts and attempts[-1].ended_at is None:
        _record_lost(run, attempts[-1], tag_keys)


def _record_lost(run: LostRun, lost: ListedAttempt, tag_keys: Sequence[str]) -> None:
    """Write the spans of a lost attempt with the ids they had, above what was exported already."""
    tracer, (status, invocation) = tracing.tracer, run
    if tracer is None or not tracing.has_run_ids:
        return
    headers = orjson.loads(invocation.headers)
    identity = _Identity(
        run_id=status.id,
        root_id=invocation.root_id,
        agent=status.agent,
        skill=status.name,
        queue=status.queue,
        trace=headers,
        trace_id=run_trace_id(headers, invocation.root_id),
        attempt=lost.number,
        tags=_shown(status.tags, tag_keys),
    )
    start_ns = _nanoseconds(lost.started_at)
    process, context = _start_process_span(tracer, identity, start_ns)
    invoke = _start_invoke_span(tracer, identity, context, start_ns)
    for span in (invoke, process):
        _describe(span, Lost())
        span.end(_nanoseconds(lost.ended_at) if lost.ended_at is not None else time.time_ns())


def _shown(tags: Mapping[str, str], keys: Sequence[str]) -> dict[str, str]:
    return {key: tags[key] for key in keys if key in tags}


def _attributes(identity: _Identity) -> dict[str, str | int | float]:
    """Return the attributes that both spans have."""
    return {
        semconv.RUN_ID: identity.run_id,
        semconv.SKILL: identity.skill,
        semconv.ATTEMPT: identity.attempt,
        **{semconv.TAG + key: value for key, value in identity.tags.items()},
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000) * 1_000_000


def _identity_of(attempt: Attempt, tag_keys: Sequence[str]) -> _Identity:
    lease, delivery = attempt.lease, attempt.delivery
    return _Identity(
        run_id=lease.run_id,
        root_id=delivery.root_id,
        agent=delivery.agent,
        skill=delivery.task,
        queue=delivery.queue,
        trace=delivery.trace,
        trace_id=run_trace_id(delivery.trace, delivery.root_id),
        attempt=lease.attempt,
        tags=_shown(lease.tags, tag_keys),
        waited_ms=lease.waited_ms,
    )


def _error_type(outcome: Outcome) -> str | None:
    """Return the kind of error that the attempt ended with; None without one."""
    match outcome:
        case Failed(code) | TimedOut(code=code) | Lost(code=code):
            return str(code)
        case Retry(error=error):
            return type(error).__name__
        case Succeeded() | Cancelled() | Released() | Parked():
            return None
        case _:
            assert_never(outcome)


def _start_process_span(tracer: Tracer, identity: _Identity, start_ns: int) -> tuple[Span, Context]:
    """Start `process <queue>`; return it with the context in which it is current."""
    parent = propagate.extract(identity.trace, Context()) if identity.trace else Context()
    attributes: dict[str, str | int | float] = {
        semconv.MESSAGING_SYSTEM: semconv.CELERY,
        semconv.MESSAGING_OPERATION: "process",
        semconv.MESSAGING_OPERATION_TYPE: "process",
        semconv.MESSAGING_DESTINATION: identity.queue,
        semconv.MESSAGING_MESSAGE_ID: identity.run_id,
        semconv.MESSAGING_CONVERSATION_ID: identity.root_id,
        semconv.QUEUE_WAIT: identity.waited_ms / 1000,
        **_attributes(identity),
    }
    with NextIds(span_id(identity.run_id, identity.attempt, PROCESS), int(identity.trace_id, 16)):
        span = tracer.start_span(
            f"process {identity.queue}",
            parent,
            SpanKind.CONSUMER,
            attributes,
            links=_link_before(identity),
            start_time=start_ns,
        )
    return span, trace.set_span_in_context(span, parent)


def _start_invoke_span(
    tracer: Tracer, identity: _Identity, parent: Context, start_ns: int | None = None
) -> Span:
    """Start `invoke_agent <agent>` below the process span."""
    attributes: dict[str, str | int | float] = {
        semconv.OPERATION: semconv.INVOKE_AGENT,
        semconv.AGENT_NAME: identity.agent,
        semconv.CONVERSATION_ID: identity.root_id,
        **_attributes(identity),
    }
    with NextIds(span_id(identity.run_id, identity.attempt, INVOKE), int(identity.trace_id, 16)):
        return tracer.start_span(
            f"{semconv.INVOKE_AGENT} {identity.agent}",
            parent,
            SpanKind.INTERNAL,
            attributes,
            start_time=start_ns,
        )


def _link_before(identity: _Identity) -> list[Link]:
    """Return the link to the run's previous attempt."""
    if identity.attempt == 1 or not tracing.has_run_ids:
        return []
    before = SpanContext(
        int(identity.trace_id, 16),
        span_id(identity.run_id, identity.attempt - 1, PROCESS),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return [Link(before, {semconv.ATTEMPT: identity.attempt - 1})]


def _describe(span: Span, outcome: Outcome, *, with_error: bool = True) -> None:
    """Put an outcome into a span's attributes, status and events."""
    attributes = {semconv.OUTCOME: outcome.name}
    if outcome.message:
        attributes[semconv.REASON] = redact(outcome.message)
    if (error_type := _error_type(outcome)) is not None:
        attributes[semconv.ERROR_TYPE] = error_type
        span.set_status(StatusCode.ERROR, redact(outcome.message))
    span.set_attributes(attributes)
    error = outcome.error if isinstance(outcome, Failed | Retry) else None
    if error is not None and with_error:
        span.add_event(
            "exception",
            {
                "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
                "exception.message": redact(str(error)),
                "exception.stacktrace": redact("".join(traceback.format_exception(error))),
            },
        )
