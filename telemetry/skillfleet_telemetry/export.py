"""Export of spans: failures are counted and logged, and never block a run."""

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

_LOG_INTERVAL = 60.0
_SDK_LOGGERS = ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal", "urllib3")


class PendingSpans:
    """The number of spans that wait for their export. Any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def change(self, by: int) -> None:
        """Count spans in or out."""
        with self._lock:
            self.count += by


class CountingExporter(SpanExporter):
    """Exports batches and counts those that fail. Called in the thread of the batch processor."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._logged_at = float("-inf")
        self.pending = PendingSpans()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; a failure is final, because the batch processor keeps nothing."""
        self.pending.change(-len(spans))
        try:
            result = self._exporter.export([redact_span(span) for span in spans])
        except Exception as error:  # noqa: BLE001 - an exporter must never end its thread
            self._count(len(spans), repr(error))
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._count(len(spans), "the collector refused them or is unreachable")
        return result

    def shutdown(self) -> None:
        """Abort exports that are still in progress."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the inner exporter; this one keeps nothing."""
        return self._exporter.force_flush(timeout_millis)

    def _count(self, spans: int, why: str) -> None:
        self._lost += spans
        record(TELEMETRY_LOST, spans, "export")
        if time.monotonic() - self._logged_at >= _LOG_INTERVAL:
            self._logged_at = time.monotonic()
            logger.error(
                "spans could not be exported: %s; %d lost so far. Runs are not affected. "
                "Check OTEL_EXPORTER_OTLP_ENDPOINT.",
                why,
                self._lost,
            )


class CountingProcessor(BatchSpanProcessor):
    """Batches spans for a CountingExporter; counts what it drops while the exporter hangs."""

    def __init__(self, exporter: CountingExporter, settings: TelemetrySettings) -> None:
        super().__init__(
            exporter,
            max_queue_size=2 * settings.otel_bsp_max_queue_size,
            schedule_delay_millis=settings.otel_bsp_schedule_delay,
            max_export_batch_size=settings.otel_bsp_max_export_batch_size,
        )
        self._max_pending = settings.otel_bsp_max_queue_size
        self._pending = exporter.pending

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a finished span, or drop it when the queue is full."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._pending.count >= self._max_pending:
            record(TELEMETRY_LOST, 1, "queue_full")
            return
        self._pending.change(1)
        super().on_end(span)


class RateLimitFilter(logging.Filter):
    """Passes one record per minute: the SDK logs each failure several times."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at = float("-inf")

    def filter(self, _: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if time.monotonic() - self._passed_at < _LOG_INTERVAL:
            return False
        self._passed_at = time.monotonic()
        return True


def rate_limit_sdk_logs() -> None:
    """Limit each logger of the SDK to one record per minute."""
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith(_SDK_LOGGERS):
            logger_of = logging.getLogger(name)
            if not any(isinstance(each, RateLimitFilter) for each in logger_of.filters):
                logger_of.addFilter(RateLimitFilter())
