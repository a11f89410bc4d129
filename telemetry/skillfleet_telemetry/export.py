"""Spans on their way out: what cannot be exported is counted and said, and holds nobody up."""

import logging
import threading
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from skillfleet_telemetry.metrics import TELEMETRY_LOST, record
from skillfleet_telemetry.settings import TelemetrySettings
from skillfleet_telemetry.span_redaction import redact_span

logger = logging.getLogger(__name__)

_SAY_EVERY = 60.0
_CHATTY = ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal", "urllib3")


class Waiting:
    """How many spans wait for their export. Any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def change(self, by: int) -> None:
        """Count spans in or out."""
        with self._lock:
            self.count += by


class CountingExporter(SpanExporter):
    """Passes batches on and counts those that fail. Called in the batch processor's thread."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._said_at = float("-inf")
        self.waiting = Waiting()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; a failure is final, as the batch processor keeps nothing."""
        self.waiting.change(-len(spans))
        try:
            result = self._exporter.export([redact_span(span) for span in spans])
        except Exception as error:  # noqa: BLE001 - an exporter must never end its thread
            self._count(len(spans), repr(error))
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._count(len(spans), "the collector refused or could not be reached")
        return result

    def shutdown(self) -> None:
        """Give up what is still being tried."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self._exporter.force_flush(timeout_millis)

    def _count(self, spans: int, why: str) -> None:
        self._lost += spans
        record(TELEMETRY_LOST, spans, "export")
        if time.monotonic() - self._said_at >= _SAY_EVERY:
            self._said_at = time.monotonic()
            logger.error(
                "spans could not be exported: %s; %d lost so far. Runs are not affected. "
                "Look at OTEL_EXPORTER_OTLP_ENDPOINT.",
                why,
                self._lost,
            )


class CountingProcessor(BatchSpanProcessor):
    """Batches spans for a CountingExporter; counts what it drops when the exporter hangs."""

    def __init__(self, exporter: CountingExporter, settings: TelemetrySettings) -> None:
        super().__init__(
            exporter,
            max_queue_size=2 * settings.otel_bsp_max_queue_size,
            schedule_delay_millis=settings.otel_bsp_schedule_delay,
            max_export_batch_size=settings.otel_bsp_max_export_batch_size,
        )
        self._most = settings.otel_bsp_max_queue_size
        self._waiting = exporter.waiting

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a finished span, or drop it when too many wait already."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._waiting.count >= self._most:
            record(TELEMETRY_LOST, 1, "queue_full")
            return
        self._waiting.change(1)
        super().on_end(span)


class Seldom(logging.Filter):
    """Lets one record of a logger pass in a while: the SDK says each failure several times."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at = float("-inf")

    def filter(self, _: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if time.monotonic() - self._passed_at < _SAY_EVERY:
            return False
        self._passed_at = time.monotonic()
        return True


def hush_exporters() -> None:
    """Hold the SDK's own complaints to one a minute each."""
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith(_CHATTY):
            logger_of = logging.getLogger(name)
            if not any(isinstance(each, Seldom) for each in logger_of.filters):
                logger_of.addFilter(Seldom())
