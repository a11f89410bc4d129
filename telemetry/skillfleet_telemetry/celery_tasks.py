"""Spans of Celery tasks that are not skills, by OpenTelemetry's own instrumentation.

A skill's run has its own spans (the worker's attempts/telemetry.py): the instrumentation knows
neither attempts nor outcomes, follows superseded conventions, and would duplicate those spans.
"""

from typing import Any

from opentelemetry.instrumentation.celery import CeleryInstrumentor


class PlainTaskInstrumentor(CeleryInstrumentor):
    """The official instrumentation without skills."""

    _instance = None

    def _trace_prerun(self, *args: Any, **kwargs: Any) -> None:
        if not hasattr(kwargs.get("task"), "skill"):
            super()._trace_prerun(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _trace_postrun(self, *args: Any, **kwargs: Any) -> None:
        if not hasattr(kwargs.get("task"), "skill"):
            super()._trace_postrun(*args, **kwargs)  # type: ignore[no-untyped-call]


def instrument_plain_tasks() -> None:
    """Start it, in place of the unchanged instrumentation if the project started that."""
    official = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    if official.is_instrumented_by_opentelemetry:
        official.uninstrument()
    ours = PlainTaskInstrumentor()  # type: ignore[no-untyped-call]
    if not ours.is_instrumented_by_opentelemetry:
        ours.instrument()
