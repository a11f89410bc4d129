"""An OTLP collector in this process: HTTP, protobuf, and queries for spans."""

import gzip
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from tests.support.waiting import wait_until

ERROR = 2
"""The status code of a span that failed, on the wire."""


@dataclass(frozen=True)
class Seen:
    """A received span; ids are hex digits, a root's parent is ''."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    status: int
    links: tuple[str, ...]
    events: tuple[str, ...]
    began_ns: int
    ended_ns: int
    service: str
    exceptions: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> bool:
        """True when its status is an error."""
        return self.status == ERROR

    @property
    def run_id(self) -> str:
        """The run it belongs to; '' for a library's span."""
        return str(self.attributes.get("skillfleet.run.id", ""))


class Receiver:
    """Listens on a free port. `refuse` answers 503 from now on, `hold` does not answer."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.requests = 0
        self._lock = threading.Lock()
        self._refusing = False
        self._free = threading.Event()
        self._free.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status = receiver.take(self.path, body)
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore errors: a worker may have been killed during its request."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """Return the value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._free.set()
        self._server.shutdown()
        self._server.server_close()

    def refuse(self) -> None:
        """Answer every export with 503."""
        self._refusing = True

    def hold(self) -> None:
        """Answer no export until `release`."""
        self._free.clear()

    def release(self) -> None:
        """Answer again."""
        self._free.set()

    def take(self, path: str, body: bytes) -> int:
        """Take one export and return the HTTP status to answer."""
        with self._lock:
            self.requests += 1
        self._free.wait()
        if self._refusing:
            return 503
        if path == "/v1/traces":
            spans = list(_spans(ExportTraceServiceRequest.FromString(body)))
            with self._lock:
                self.spans += spans
        return 200

    def add(self, spans: Iterable[Seen]) -> None:
        """Take spans of this process, without HTTP."""
        with self._lock:
            self.spans += spans

    def trace(self, trace_id: str) -> list[Seen]:
        """Return the spans of a trace that have arrived."""
        with self._lock:
            return [span for span in self.spans if span.trace_id == trace_id]

    def wait_for(
        self, trace_id: str, enough: Callable[[list[Seen]], object], what: str
    ) -> list[Seen]:
        """Wait until `enough` of the trace has arrived, and return it."""
        try:
            wait_until(lambda: enough(self.trace(trace_id)), 20.0, what)
        except AssertionError as error:
            error.add_note("\n".join(tree(self.trace(trace_id))))
            raise
        return self.trace(trace_id)


def check_connected(spans: list[Seen]) -> Seen:
    """Assert that the spans are one tree in which none is missing; return its root."""
    by_id = {span.span_id: span for span in spans}
    shown = "\n".join(tree(spans))
    assert len(by_id) == len(spans), f"a span arrived twice:\n{shown}"
    orphans = [span.name for span in spans if span.parent_id and span.parent_id not in by_id]
    assert not orphans, f"the parents of {orphans} are missing:\n{shown}"
    roots = [span for span in spans if not span.parent_id]
    assert len(roots) == 1, f"{len(roots)} roots:\n{shown}"
    assert all(span.ended_ns >= span.began_ns > 0 for span in spans), shown
    return roots[0]


def children(spans: list[Seen], parent: Seen) -> list[Seen]:
    """Return the child spans of a span, in the order of their start."""
    found = [span for span in spans if span.parent_id == parent.span_id]
    return sorted(found, key=lambda span: span.began_ns)


def one(spans: Iterable[Seen], name: str) -> Seen:
    """Return the only span of that name."""
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, f"{len(found)} spans are called {name!r}"
    return found[0]


def tree(spans: list[Seen], parent: str | None = None, depth: int = 0) -> list[str]:
    """Return the spans as indented lines, with orphans at the end."""
    ids = {span.span_id for span in spans}
    if parent is None:
        level = [span for span in spans if span.parent_id not in ids]
    else:
        level = [span for span in spans if span.parent_id == parent]
    lines = []
    for span in sorted(level, key=lambda each: each.began_ns):
        lines.append(f"{'  ' * depth}{span.name} {span.span_id} {span.attributes}")
        lines += tree(spans, span.span_id, depth + 1)
    return lines


def _spans(request: ExportTraceServiceRequest) -> Iterable[Seen]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                exceptions = [
                    str(_attributes(event.attributes))
                    for event in span.events
                    if event.name == "exception"
                ]
                yield Seen(
                    name=span.name,
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    status=span.status.code,
                    links=tuple(link.span_id.hex() for link in span.links),
                    events=tuple(event.name for event in span.events),
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    service=service,
                    exceptions=tuple(exceptions),
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
