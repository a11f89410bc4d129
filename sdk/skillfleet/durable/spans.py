"""Spans of steps and waits; without an OpenTelemetry SDK their cost is negligible."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from skillfleet import semconv as names
from skillfleet.contracts import EntryKind

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# ruff: noqa: PLC0415 - processes that record no entry do not pay for OpenTelemetry's import

_UNRECORDED: Final = nullcontext()


def entry_span(
    kind: EntryKind, name: str, identity: str, tries: int = 1
) -> AbstractContextManager[None]:
    """Return a context manager around what becomes an entry; its span is the current one inside.

    The span begins with this call. One that is not recorded is not made the current one. Replayed
    entries have no span.
    """
    span = _tracer().start_span(
        f"{kind} {name}" if kind is EntryKind.STEP else str(kind),
        attributes={
            names.ENTRY_KIND: str(kind),
            names.ENTRY_NAME: name,
            names.ENTRY: identity,
            names.TRY: tries,
        },
    )
    return _inside(span) if span.is_recording() else _UNRECORDED


@functools.cache
def _tracer() -> "Tracer":
    """Return the tracer, which follows the provider that the process sets, once."""
    from opentelemetry import trace

    return trace.get_tracer("skillfleet")


@contextmanager
def _inside(span: "Span") -> Iterator[None]:
    """Make a span the current one inside the block, and end it."""
    from opentelemetry import trace
    from opentelemetry.trace import StatusCode

    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield
        except Exception as error:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
