"""Open spans of an attempt, from whichever library: none outlives the attempt."""

from contextvars import ContextVar

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

OpenSpans = dict[int, Span]
"""Span id -> span."""

in_attempt: ContextVar[OpenSpans | None] = ContextVar("skillfleet_open_spans", default=None)
"""The open spans of the attempt whose code runs; None outside of attempts."""

LEFT_OPEN = "the attempt ended before this did"


class OpenSpanProcessor(SpanProcessor):
    """A span processor that tracks the open spans of each attempt."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Add a span that an attempt's code starts."""
        del parent_context
        spans = in_attempt.get()
        if spans is not None:
            spans[span.get_span_context().span_id] = span

    def on_end(self, span: ReadableSpan) -> None:
        """Remove a span; one that ends in another context stays, which does no harm."""
        spans = in_attempt.get()
        if spans and span.context is not None:
            spans.pop(span.context.span_id, None)


def close_all(spans: OpenSpans, *, failed: bool) -> None:
    """End the spans that are still open, the youngest first, as errors if the attempt failed."""
    for span in reversed(list(spans.values())):
        if span.is_recording():
            if failed:
                span.set_status(StatusCode.ERROR, LEFT_OPEN)
            span.end()
    spans.clear()
