"""Span ids derived from run and attempt, so that any process can refer to an attempt's spans.

An attempt links to the one before it, and another worker can record the spans of an attempt that
died with its worker, without any entry in the ledger.
"""

import hashlib
from contextvars import ContextVar

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

_next: ContextVar[tuple[int, int] | None] = ContextVar("skillfleet_next_ids", default=None)


def span_id(run_id: str, attempt: int, role: str) -> int:
    """Return the id (64 bits, never 0) of the span with a `role` in an attempt."""
    digest = hashlib.blake2b(f"{run_id}\0{attempt}\0{role}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


class NextIds:
    """A context manager: a span started inside gets this id, a root span also this trace id."""

    __slots__ = ("_ids", "_token")

    def __init__(self, span: int, trace: int) -> None:
        self._ids = (span, trace)

    def __enter__(self) -> None:
        self._token = _next.set(self._ids)

    def __exit__(self, *_: object) -> None:
        _next.reset(self._token)


class RunIdGenerator(RandomIdGenerator):
    """Random ids, except for spans that are started inside `NextIds`."""

    def generate_span_id(self) -> int:
        """Return a span id."""
        chosen = _next.get()
        return super().generate_span_id() if chosen is None else chosen[0]

    def generate_trace_id(self) -> int:
        """Return a trace id."""
        chosen = _next.get()
        return super().generate_trace_id() if chosen is None else chosen[1]
