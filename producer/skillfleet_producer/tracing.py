"""The producer's side of a run's trace: W3C context into the message headers."""

from opentelemetry import propagate, trace


def trace_headers() -> dict[str, str]:
    """`traceparent`, `tracestate` and `baggage` of the current context, as far as present."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def current_trace_id() -> str | None:
    """The current trace's id, 32 hex digits; None outside a trace."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
