"""OpenTelemetry's own variables that the worker itself reads.

OpenTelemetry's SDK reads all others (headers, timeouts, certificates, samplers, propagators).
"""

from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from skillfleet.errors import SettingsError


class TelemetrySettings(BaseSettings):
    """Export of traces and metrics with OpenTelemetry's own variables, read by workers.

    Nothing is exported without an endpoint.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    otel_sdk_disabled: bool = False
    """Switch off traces and metrics."""
    otel_service_name: str = ""
    """Name of the service; default `skillfleet-worker`."""
    otel_resource_attributes: str = ""
    """Attributes of this process: `deployment.environment.name=production,team=search`."""
    otel_exporter_otlp_endpoint: str = ""
    """URL of a collector that receives OTLP over HTTP. Empty: nothing is exported."""
    otel_exporter_otlp_traces_endpoint: str = ""
    """Full URL for traces alone."""
    otel_exporter_otlp_metrics_endpoint: str = ""
    """Full URL for metrics alone."""
    otel_traces_exporter: str = "otlp"
    """`none` switches the export of traces off."""
    otel_metrics_exporter: str = "otlp"
    """`none` switches the export of metrics off."""
    otel_bsp_schedule_delay: int = 200
    """Milliseconds until finished spans are exported; a crash loses those of this time."""
    otel_bsp_max_queue_size: int = 16_384
    """Most finished spans that wait for export; further ones are dropped and counted."""
    otel_bsp_max_export_batch_size: int = 2048
    """Most spans of one request to the collector."""

    @classmethod
    def load(cls) -> Self:
        """Read the environment; raise SettingsError, which names the variable."""
        try:
            return cls()
        except ValidationError as error:
            problems = [f"{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
            raise SettingsError("; ".join(problems)) from None

    @property
    def exports_traces(self) -> bool:
        """True when spans are exported."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return bool(endpoint) and self._on(self.otel_traces_exporter)

    @property
    def exports_metrics(self) -> bool:
        """True when metrics are pushed over OTLP, in addition to Prometheus's scrapes."""
        endpoint = self.otel_exporter_otlp_metrics_endpoint or self.otel_exporter_otlp_endpoint
        return bool(endpoint) and self._on(self.otel_metrics_exporter)

    def _on(self, exporter: str) -> bool:
        return not self.otel_sdk_disabled and exporter.strip().lower() == "otlp"
