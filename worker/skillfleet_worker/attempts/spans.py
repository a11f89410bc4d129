"""What is told of one attempt: its two spans, its measurements, and who speaks in its log lines.

process <queue>        CONSUMER, from the claim to the written outcome
  invoke_agent <agent> INTERNAL, the handler's time; whatever the handler starts is below it
"""

import time
import traceback
from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer

from skillfleet import semconv as names
from skillfleet_telemetry.ids import NextIds, span_id
from skillfleet_telemetry.logs import log_fields
from skillfleet_telemetry.metrics import (
    CANCEL_LATENCY,
    IN_FLIGHT,
    QUEUE_WAIT,
    RELEASES,
    RETRIES,
    RUN_DURATION,
    RUNS,
    SETTLE,
    is_measured,
    record,
)
from skillfleet_telemetry.open_spans import OpenSpans, close_all, in_attempt
from skillfleet_telemetry.redaction import redact
from skillfleet_telemetry.tracing import tracing

PROCESS, INVOKE = "process", "invoke"


class Facts(NamedTuple):
    """Which attempt of which run this is. `trace` holds the message's W3C headers."""

    run_id: str
    root_id: str
    agent: str
    task: str
    queue: str
    trace: Mapping[str, str]
    trace_id: str
    """The run's trace, 32 hex digits."""
    attempt: int
    waited_ms: int = 0
    """How long the run had waited in its queue."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `word` is a terminal state, or retry, released or lost."""

    word: str
    reason: str = ""
    """Why, for people."""
    error_type: str | None = None
    """What kind of error it is; None when it is none."""
    error: BaseException | None = None
    ordered_at: float | None = None
    """When it was ordered to stop, by `time.monotonic`."""


SUCCEEDED, CANCELLED, LOST = "succeeded", "cancelled", "lost"
_NOT_YET = {"retry": RETRIES, "released": RELEASES}
_open: set["Telling"] = set()


class Telling:
    """Tells of one attempt; a context manager around its execution and settlement.

    Belongs to the context (task or greenlet) that executes the attempt.
    """

    def __init__(self, facts: Facts, began_ns: int) -> None:
        """`began_ns` is when the claim was asked for, nanoseconds since the epoch."""
        self._facts = facts
        self._began_ns = began_ns
        self._executed_ns = 0
        self._attached: Token[Context] | None = None
        self._collecting: Token[OpenSpans | None] | None = None
        self._tracer = tracing.tracer
        self._process: Span = trace.INVALID_SPAN
        self._invoke: Span = trace.INVALID_SPAN
        self._spans: OpenSpans = {}

    def __enter__(self) -> Self:
        facts = self._facts
        log_fields().update(
            run_id=facts.run_id, skill=facts.task, attempt=facts.attempt, trace_id=facts.trace_id
        )
        record(QUEUE_WAIT, facts.waited_ms / 1000, facts.task)
        if self._tracer is not None:
            self._start_spans(self._tracer)
        elif facts.trace:
            self._attach(propagate.extract(facts.trace, Context()))
        _open.add(self)
        record(IN_FLIGHT, len(_open))
        return self

    def executed(self, ending: Ending) -> None:
        """The handler is over: end its span and all that are open below it."""
        self._executed_ns = time.time_ns()
        self._leave_scope()
        close_all(self._spans, failed=ending.word != SUCCEEDED)
        if self._invoke.is_recording():
            _tell_ending(self._invoke, ending)
            if ending.word != LOST:
                self._invoke.end()

    def settled(self, ending: Ending, flushed_ns: int | None) -> None:
        """The outcome is written: end the attempt. `flushed_ns`: when its events were."""
        now_ns = time.time_ns()
        process = self._process
        if process.is_recording():
            if flushed_ns is not None:
                process.add_event("flushed", timestamp=flushed_ns)
            _tell_ending(process, ending, with_error=False)
            # Whoever takes a lost run over tells of this attempt (lost.py).
            if ending.word != LOST:
                process.end(now_ns)
        if is_measured():
            self._measure(ending, now_ns)

    def abandon(self, why: str) -> None:
        """The process ends before the attempt could: end all spans. Any thread."""
        close_all(self._spans, failed=True)
        for span in (self._invoke, self._process):
            if span.is_recording():
                span.set_status(StatusCode.ERROR, why)
                span.set_attribute(names.OUTCOME, "released")
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
        facts = self._facts
        self._process, parent = start_process_span(tracer, facts, self._began_ns)
        self._invoke = start_invoke_span(tracer, facts, parent)
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

    def _measure(self, ending: Ending, now_ns: int) -> None:
        skill = self._facts.task
        if self._executed_ns:
            record(SETTLE, (now_ns - self._executed_ns) / 1e9)
        if ending.word in _NOT_YET:
            record(_NOT_YET[ending.word], 1, skill)
        elif ending.word != LOST:
            record(RUNS, 1, skill, ending.word)
            record(RUN_DURATION, (now_ns - self._began_ns) / 1e9, skill, ending.word)
        if ending.word == CANCELLED and ending.ordered_at is not None:
            record(CANCEL_LATENCY, time.monotonic() - ending.ordered_at, skill)


def start_process_span(tracer: Tracer, facts: Facts, start_ns: int) -> tuple[Span, Context]:
    """The span `process <queue>` of an attempt, and the context in which it is current."""
    parent = propagate.extract(facts.trace, Context()) if facts.trace else Context()
    attributes: dict[str, str | int | float] = {
        names.MESSAGING_SYSTEM: names.CELERY,
        names.MESSAGING_OPERATION: "process",
        names.MESSAGING_OPERATION_TYPE: "process",
        names.MESSAGING_DESTINATION: facts.queue,
        names.MESSAGING_MESSAGE_ID: facts.run_id,
        names.MESSAGING_CONVERSATION_ID: facts.root_id,
        names.RUN_ID: facts.run_id,
        names.SKILL: facts.task,
        names.ATTEMPT: facts.attempt,
        names.QUEUE_WAIT: facts.waited_ms / 1000,
    }
    with NextIds(span_id(facts.run_id, facts.attempt, PROCESS), int(facts.trace_id, 16)):
        span = tracer.start_span(
            f"process {facts.queue}",
            parent,
            SpanKind.CONSUMER,
            attributes,
            links=_link_before(facts),
            start_time=start_ns,
        )
    return span, trace.set_span_in_context(span, parent)


def start_invoke_span(
    tracer: Tracer, facts: Facts, parent: Context, start_ns: int | None = None
) -> Span:
    """The span `invoke_agent <agent>` of an attempt, below its process span."""
    attributes: dict[str, str | int] = {
        names.OPERATION: names.INVOKE_AGENT,
        names.AGENT_NAME: facts.agent,
        names.CONVERSATION_ID: facts.root_id,
        names.RUN_ID: facts.run_id,
        names.SKILL: facts.task,
        names.ATTEMPT: facts.attempt,
    }
    with NextIds(span_id(facts.run_id, facts.attempt, INVOKE), int(facts.trace_id, 16)):
        return tracer.start_span(
            f"{names.INVOKE_AGENT} {facts.agent}",
            parent,
            SpanKind.INTERNAL,
            attributes,
            start_time=start_ns,
        )


def tell_ended(facts: Facts, ending: Ending, start_ns: int, end_ns: int) -> None:
    """Tell of an attempt that cannot any more, as its process is gone; times since the epoch.

    Its spans get the ids they had, so that what was exported below them hangs together.
    """
    tracer = tracing.tracer
    if tracer is None or not tracing.has_run_ids:
        return
    process, context = start_process_span(tracer, facts, start_ns)
    invoke = start_invoke_span(tracer, facts, context, start_ns)
    for span in (invoke, process):
        _tell_ending(span, ending)
        span.set_status(StatusCode.ERROR, ending.reason)
        span.end(end_ns)


def abandon_all(why: str) -> None:
    """End the spans of all attempts of this process, which is about to end. Any thread."""
    for telling in list(_open):
        telling.abandon(why)


def _link_before(facts: Facts) -> list[Link]:
    """The link to the attempt before this one."""
    if facts.attempt == 1 or not tracing.has_run_ids:
        return []
    before = SpanContext(
        int(facts.trace_id, 16),
        span_id(facts.run_id, facts.attempt - 1, PROCESS),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return [Link(before, {names.ATTEMPT: facts.attempt - 1})]


def _tell_ending(span: Span, ending: Ending, *, with_error: bool = True) -> None:
    attributes = {names.OUTCOME: ending.word}
    if ending.reason:
        attributes[names.REASON] = redact(ending.reason)
    if ending.error_type is not None:
        attributes[names.ERROR_TYPE] = ending.error_type
        span.set_status(StatusCode.ERROR, redact(ending.reason))
    span.set_attributes(attributes)
    if ending.error is not None and with_error:
        _tell_error(span, ending.error)


def _tell_error(span: Span, error: BaseException) -> None:
    span.add_event(
        "exception",
        {
            "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
            "exception.message": redact(str(error)),
            "exception.stacktrace": redact("".join(traceback.format_exception(error))),
        },
    )
