"""Tracer of a process that executes runs: set up after the fork, flushed at the end."""

import logging
import os
import socket
import threading
import uuid

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from skillfleet_telemetry.export import CountingExporter, CountingProcessor, rate_limit_sdk_logs
from skillfleet_telemetry.ids import RunIdGenerator
from skillfleet_telemetry.open_spans import OpenSpanProcessor
from skillfleet_telemetry.settings import TelemetrySettings

logger = logging.getLogger(__name__)

_SERVICE = "skillfleet-worker"


def resource(settings: TelemetrySettings, namespace: str) -> Resource:
    """Return the attributes of this process; those of OTEL_* variables take precedence."""
    own: dict[str, str | int] = {
        "service.name": _SERVICE,
        "service.namespace": namespace,
        "service.instance.id": str(uuid.uuid4()),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    given = Resource.create()
    chosen = set(given.attributes)
    if not _is_named(settings):
        # The SDK calls a nameless service "unknown_service".
        chosen.discard("service.name")
    return given.merge(Resource({name: own[name] for name in own if name not in chosen}))


def _is_named(settings: TelemetrySettings) -> bool:
    return bool(settings.otel_service_name) or (
        "service.name=" in settings.otel_resource_attributes
    )


class Tracing:
    """The tracer provider of this process, if spans are recorded."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer | None = None
        self._owned = False

    @property
    def tracer(self) -> trace.Tracer | None:
        """The tracer for attempts; None when no spans are recorded."""
        if self._provider is None or self._pid != os.getpid():
            return None
        return self._tracer

    @property
    def has_run_ids(self) -> bool:
        """True when the span ids of attempts are derived from their runs."""
        return self._provider is not None and isinstance(
            self._provider.id_generator, RunIdGenerator
        )

    def start(self, settings: TelemetrySettings, namespace: str) -> None:
        """Start, once in each process that executes runs, after its fork.

        A tracer provider that the project has set up is used unchanged.
        """
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        present = trace.get_tracer_provider()
        if isinstance(present, TracerProvider):
            self._provider, self._owned = present, False
        elif settings.exports_traces:
            self._provider, self._owned = _provider(settings, namespace), True
            trace.set_tracer_provider(self._provider)
        else:
            return
        self._provider.add_span_processor(OpenSpanProcessor())
        # Getting a tracer takes half as long as a span.
        self._tracer = self._provider.get_tracer("skillfleet")

    def stop(self, timeout: float) -> None:
        """Export all finished spans within `timeout` seconds; later ones are dropped."""
        provider, self._provider = self._provider, None
        if provider is None or self._pid != os.getpid():
            return
        finish = provider.shutdown if self._owned else provider.force_flush
        # In a thread, because neither call keeps to a time limit.
        thread = threading.Thread(target=finish, name="skillfleet-last-spans", daemon=True)
        thread.start()
        thread.join(timeout)
        if thread.is_alive():
            logger.error("the last spans could not be exported within %g s and are lost", timeout)


def _provider(settings: TelemetrySettings, namespace: str) -> TracerProvider:
    # Imported only where spans are exported: it imports protobuf.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    provider = TracerProvider(
        resource=resource(settings, namespace),
        id_generator=RunIdGenerator(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(CountingProcessor(CountingExporter(OTLPSpanExporter()), settings))
    rate_limit_sdk_logs()
    return provider


tracing = Tracing()
"""This process's tracing."""
