"""Fleets whose telemetry arrives in this process, and a traced caller."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from skillfleet_producer import Fleet
from tests.support.fleet import POOLS, FleetWorker
from tests.support.valkey import ValkeyServer
from tests.telemetry.receiver import Receiver, Seen

MODULES = "tests.telemetry.observed,examples.librarian"
SECRET = 'p"ss word\\1'


class _Own(SpanExporter):
    """An exporter that passes this process's spans to the receiver of the test, if any."""

    receiver: Receiver | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.receiver is not None:
            self.receiver.add(map(_seen, spans))
        return SpanExportResult.SUCCESS


_own = _Own()


@dataclass(frozen=True)
class Watched:
    """A server, a collector and a worker that reports to it, and a producer."""

    server: ValkeyServer
    receiver: Receiver
    worker: FleetWorker
    fleet: Fleet


@pytest.fixture(scope="session")
def tracer() -> trace.Tracer:
    """Return the caller's tracer, from this process's only provider."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(_own))
    trace.set_tracer_provider(provider)
    return trace.get_tracer("caller")


@contextmanager
def watched(
    pool: str, receiver: Receiver, variables: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Watched]:
    """Start a fleet of one worker that exports to the receiver; options of FleetWorker.

    `variables` are more of the worker's environment; an empty value takes one away.
    """
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "SKILLFLEET_SECRET_TOKEN": SECRET,
        **(variables or {}),
    }
    with ExitStack() as stack:
        server = ValkeyServer()
        stack.callback(server.close)
        server.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            worker = FleetWorker(server, MODULES, pool=pool, **options)
        stack.enter_context(worker)
        yield Watched(server, receiver, worker, stack.enter_context(Fleet(server.producer_url)))


@pytest.fixture(scope="session")
def watched_fleets() -> Iterator[Callable[[str], Watched]]:
    """Return a function for the watched fleet of each pool, started at its first use."""
    with ExitStack() as stack:
        known: dict[str, Watched] = {}

        def get(pool: str) -> Watched:
            if pool not in known:
                receiver = stack.enter_context(Receiver())
                known[pool] = stack.enter_context(watched(pool, receiver, concurrency=8))
            return known[pool]

        yield get


@pytest.fixture(params=POOLS)
def seen(
    request: pytest.FixtureRequest,
    watched_fleets: Callable[[str], Watched],
    tracer: trace.Tracer,
) -> Iterator[Watched]:
    """Return the watched fleet of each pool; spans of this process arrive there, too."""
    fleet = watched_fleets(request.param)
    _own.receiver = fleet.receiver
    yield fleet
    _own.receiver = None


@pytest.fixture
def receiver(tracer: trace.Tracer) -> Iterator[Receiver]:
    """Yield a collector of this test, where spans of this process arrive, too."""
    with Receiver() as own:
        _own.receiver = own
        yield own
        _own.receiver = None


@pytest.fixture
def own_root() -> Iterator[None]:
    """Restore logging after a test that configures it."""
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    structlog.reset_defaults()


def _seen(span: ReadableSpan) -> Seen:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return Seen(
        name=span.name,
        kind=span.kind.name,
        trace_id=trace.format_trace_id(context.trace_id),
        span_id=trace.format_span_id(context.span_id),
        parent_id=trace.format_span_id(parent.span_id) if parent else "",
        attributes=dict(span.attributes or {}),
        status=span.status.status_code.value,
        links=(),
        events=tuple(event.name for event in span.events),
        began_ns=span.start_time or 0,
        ended_ns=span.end_time or 0,
        service="caller",
    )
