"""Tracing in the producer: the span of a submission, W3C context in the message headers."""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import orjson
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from skillfleet import semconv as names
from skillfleet_ledger.runs.records import Submission

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_tracer = trace.get_tracer("skillfleet")


def sending(new: Submission) -> AbstractContextManager[Submission]:
    """Return the span `send <queue>` around the writing of a run.

    Yields the run with its trace id, and with `traceparent`, `tracestate` and `baggage` among
    its headers where there is something to propagate.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # This process records no spans.
        return nullcontext(_propagating(new))
    return _recorded(new)


@contextmanager
def _recorded(new: Submission) -> Iterator[Submission]:
    attributes = {
        names.MESSAGING_SYSTEM: names.CELERY,
        names.MESSAGING_OPERATION: "send",
        names.MESSAGING_OPERATION_TYPE: "send",
        names.MESSAGING_DESTINATION: new.queue,
        names.MESSAGING_MESSAGE_ID: new.id,
        names.RUN_ID: new.id,
        names.SKILL: new.task,
    }
    with _tracer.start_as_current_span(
        f"send {new.queue}", kind=SpanKind.PRODUCER, attributes=attributes
    ):
        yield _propagating(new)


def _propagating(new: Submission) -> Submission:
    context: dict[str, str] = {}
    if otel_context.get_current():
        propagate.inject(context)
    trace_id = run_trace_id(context, new.root_id or new.id)
    if not context:
        return new.changed(trace_id=trace_id)
    headers = orjson.dumps(orjson.loads(new.headers) | context)
    return new.changed(headers=headers, trace_id=trace_id)


def mark_duplicate() -> None:
    """Record on the current span that the run existed before: an idempotent repetition."""
    trace.get_current_span().set_attribute(names.EXISTED, value=True)


def callers_trace_id(headers: Mapping[str, Any]) -> str | None:
    """Return the trace id in a W3C `traceparent` header; None without one."""
    traceparent = headers.get("traceparent")
    match = _TRACEPARENT.fullmatch(str(traceparent)) if traceparent else None
    return match[1] if match else None


def run_trace_id(headers: Mapping[str, Any], root_id: str) -> str:
    """Return the id of a run's trace (32 hex digits): its caller's, else one derived from its root.

    So untraced runs have a trace id too, and all attempts of a run share it. `headers` are
    the message headers, `root_id` is the id of the run at the root of the tree.
    """
    caller = callers_trace_id(headers)
    if caller is not None:
        return caller
    if _UUID.fullmatch(root_id):
        return root_id.replace("-", "")
    try:
        return uuid.UUID(root_id).hex
    except ValueError:
        return hashlib.sha256(root_id.encode()).hexdigest()[:32]
