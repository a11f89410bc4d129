"""Exporters that fail or hang: they are counted and logged, and no run waits for them."""

import signal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Link

from skillfleet.errors import SettingsError
from skillfleet_telemetry.redaction import process_secrets
from skillfleet_telemetry.settings import TelemetrySettings
from skillfleet_telemetry.span_redaction import redact_span
from tests.support.forms import forms
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.telemetry.conftest import watched
from tests.telemetry.receiver import Receiver
from tests.telemetry.scraping import scrape

IMPATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["prefork"]))
def test_spans_that_a_collector_refuses_are_counted_and_logged_once(
    pool: str, receiver: Receiver
) -> None:
    receiver.refuse()
    port = free_port()
    with watched(pool, receiver, IMPATIENT, concurrency=2, metrics=True, probe_port=port) as seen:
        for _ in range(3):
            assert seen.fleet.enqueue("watched.add", {"x": 1}).result(timeout=60) == 2
            before = receiver.requests
            wait_until(lambda before=before: receiver.requests > before, what="an export")  # type: ignore[misc]

        def lost() -> float:
            return scrape(port).sum("skillfleet_telemetry_lost_total", reason="export")

        wait_until(lambda: lost() >= 9, 30, "the lost spans to be counted")
        said = [line for line in seen.worker.text().splitlines() if "could not be exported" in line]
    assert 1 <= len(said) <= 2, "once in each process"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in said[0]


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_a_collector_that_hangs_holds_up_neither_runs_nor_the_shutdown(
    pool: str, receiver: Receiver
) -> None:
    receiver.hold()
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "20", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
    port = free_port()
    with watched(pool, receiver, small, concurrency=2, metrics=True, probe_port=port) as seen:
        for start in range(0, 60, 20):
            runs = seen.fleet.enqueue_many("watched.add", [{"x": start + i} for i in range(20)])
            assert {run.result(timeout=60) for run in runs} == {start + i + 1 for i in range(20)}
        wait_until(lambda: receiver.requests > 0, what="an export")
        dropped = {"reason": "queue_full"}
        wait_until(
            lambda: scrape(port).sum("skillfleet_telemetry_lost_total", **dropped) > 0,
            what="dropped spans to be counted",
        )
        seen.worker.send_signal(signal.SIGTERM)
        assert seen.worker.wait_end(60) == 0
        assert "the last spans could not be exported" in seen.worker.text()


def test_a_secret_is_hidden_in_every_part_of_a_span() -> None:
    process_secrets.register("s3cret-of-a-link")
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("some")
    context = tracer.start_span("other").get_span_context()
    reported = {"key": "has s3cret-of-a-link", "s3cret-of-a-link": ["s3cret-of-a-link", "x"]}
    for links in ([Link(context, reported)], []):
        span = tracer.start_span("some", links=[Link(context, {"n": 1}), *links])
        if not links:
            span.add_event("s3cret-of-a-link", reported)
        assert isinstance(span, ReadableSpan)
        quiet = redact_span(span)
        assert "s3cret" not in quiet.to_json()
        assert "[secret]" in quiet.to_json()
        assert [link.context for link in quiet.links] == [context] * (1 + len(links))
        assert quiet.links[0].attributes == {"n": 1}


def test_without_an_endpoint_no_tracer_is_set_up_and_nothing_leaves(
    receiver: Receiver, tracer: trace.Tracer
) -> None:
    none = {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    with watched("loop", receiver, none, concurrency=2) as seen:
        with tracer.start_as_current_span("caller") as span:
            run = seen.fleet.enqueue("watched.adds_all", {"n": 2})
        assert run.result(timeout=60) == 1
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        called = [status for status in seen.fleet.runs() if status.parent_id == run.id]
        assert [status.trace_id for status in called] == [trace_id] * 2, "it is passed on"
        seen.worker.send_signal(signal.SIGTERM)
        seen.worker.wait_end()
    assert receiver.requests == 0
    assert {span.service for span in receiver.spans} == {"caller"}


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SDK_DISABLED", "perhaps"), ("OTEL_BSP_MAX_QUEUE_SIZE", "many")]
)
def test_a_bad_value_names_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        TelemetrySettings.load()


def test_exporters_are_on_only_with_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not TelemetrySettings.load().exports_traces
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    settings = TelemetrySettings.load()
    assert (settings.exports_traces, settings.exports_metrics) == (True, False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert TelemetrySettings.load().exports_metrics
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert not TelemetrySettings.load().exports_metrics
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not TelemetrySettings.load().exports_traces
