"""OpenTelemetry's own variables, as far as the worker itself acts on them.

All others (headers, timeouts, certificates, samplers, propagators) its SDK reads.
"""

from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from skillfleet.errors import SettingsError


class TelemetrySettings(BaseSettings):
    """Field names are the variables' names in lower case. Nothing leaves without an endpoint."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    otel_sdk_disabled: bool = False
    otel_service_name: str = ""
    otel_resource_attributes: str = ""
    otel_exporter_otlp_endpoint: str = ""
    otel_exporter_otlp_traces_endpoint: str = ""
    otel_exporter_otlp_metrics_endpoint: str = ""
    otel_traces_exporter: str = "otlp"
    otel_metrics_exporter: str = "otlp"
    otel_bsp_schedule_delay: int = 200
    """Milliseconds a finished span waits for company: what a crash may cost."""
    otel_bsp_max_queue_size: int = 16_384
    otel_bsp_max_export_batch_size: int = 2048

    @classmethod
    def load(cls) -> Self:
        """Read the environment; raises SettingsError, which names the variable."""
        try:
            return cls()
        except ValidationError as error:
            problems = [f"{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
            raise SettingsError("; ".join(problems)) from None

    @property
    def exports_traces(self) -> bool:
        """True when spans leave this machine."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return bool(endpoint) and self._on(self.otel_traces_exporter)

    @property
    def exports_metrics(self) -> bool:
        """True when metrics leave this machine on their own, beside Prometheus's asking."""
        endpoint = self.otel_exporter_otlp_metrics_endpoint or self.otel_exporter_otlp_endpoint
        return bool(endpoint) and self._on(self.otel_metrics_exporter)

    def _on(self, exporter: str) -> bool:
        return not self.otel_sdk_disabled and exporter.strip().lower() == "otlp"
