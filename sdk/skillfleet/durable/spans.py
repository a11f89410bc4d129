"""Spans of steps and waits; without an OpenTelemetry SDK their cost is negligible."""

from collections.abc import Iterator
from contextlib import contextmanager

from skillfleet import semconv as names
from skillfleet.contracts import EntryKind

# ruff: noqa: PLC0415 - processes that record no entry do not pay for OpenTelemetry's import


@contextmanager
def entry_span(kind: EntryKind, name: str, identity: str, tries: int = 1) -> Iterator[None]:
    """Return a context manager around what becomes an entry; its span is the current one inside.

    Replayed entries have no span.
    """
    from opentelemetry import trace
    from opentelemetry.trace import StatusCode

    attributes: dict[str, str | int] = {
        names.ENTRY_KIND: str(kind),
        names.ENTRY_NAME: name,
        names.ENTRY: identity,
        names.TRY: tries,
    }
    title = f"{kind} {name}" if kind is EntryKind.STEP else str(kind)
    tracer = trace.get_tracer("skillfleet")
    with tracer.start_as_current_span(
        title, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
