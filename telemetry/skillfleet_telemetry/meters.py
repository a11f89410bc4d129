"""Metrics of the process that serves them: OpenTelemetry's SDK as the sink of `metrics.record`.

With prefork that is the main process; its children send their measurements there (relay.py).
"""

from collections.abc import Callable
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from skillfleet_telemetry.metrics import TABLE, Gauges, Metric


class Meters:
    """Instruments for the whole table. `add` is a sink for measurements (any thread)."""

    def __init__(self, resource: Resource, gauges: Gauges, *, prometheus: bool, otlp: bool) -> None:
        self._registry = CollectorRegistry()
        readers: list[MetricReader] = []
        if prometheus:
            readers.append(
                PrometheusMetricReader(
                    disable_target_info=True, scope_info_enabled=False, registry=self._registry
                )
            )
        if otlp:
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
        self._provider = MeterProvider(readers, resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("skillfleet")
        self._record: dict[str, Callable[..., None]] = {}
        for metric in TABLE:
            if metric.kind == "counter":
                counter = meter.create_counter(metric.name, metric.unit, metric.description)
                self._record[metric.name] = counter.add
                for labels in metric.at_zero:
                    self.add(metric, 0, labels)
            elif metric.kind == "histogram":
                histogram = meter.create_histogram(
                    metric.name,
                    metric.unit,
                    metric.description,
                    explicit_bucket_boundaries_advisory=metric.buckets,
                )
                self._record[metric.name] = histogram.record
            elif metric in gauges:
                meter.create_observable_gauge(
                    metric.name, [_observer(gauges[metric])], metric.unit, metric.description
                )

    def add(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        """Record one measurement."""
        take = self._record.get(metric.name)
        if take is not None:
            own = len(metric.labels)
            named = dict(zip(metric.labels, labels[:own], strict=True))
            for tag in labels[own:]:
                name, _, named[name] = tag.partition("=")
            take(value, named)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        text: bytes = generate_latest(self._registry)
        return text

    def stop(self, timeout: float) -> None:
        """Export pending measurements, within `timeout` seconds."""
        self._provider.shutdown(timeout_millis=timeout * 1000)


def _observer(read: Callable[[], float | None]) -> Callable[[CallbackOptions], Any]:
    def observe(_: CallbackOptions) -> list[Observation]:
        value = read()
        return [] if value is None else [Observation(value)]

    return observe
