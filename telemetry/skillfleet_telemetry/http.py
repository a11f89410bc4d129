"""HTTP server in a thread, for probes and metrics, which must answer while a loop is blocked."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of a route."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, text: str, status: HTTPStatus = HTTPStatus.OK) -> "Answer":
        """Respond with a line of text."""
        return cls(f"{text}\n".encode(), status)

    @classmethod
    def metrics(cls, exposition: bytes) -> "Answer":
        """Respond with metrics in Prometheus's text format."""
        return cls(exposition, content_type="text/plain; version=0.0.4; charset=utf-8")

    @classmethod
    def json(cls, value: object) -> "Answer":
        """Respond with a JSON value."""
        return cls(orjson.dumps(value), content_type="application/json")


@dataclass(frozen=True, slots=True)
class Query:
    """A request: the path below a route that ends in a slash, and the query's parameters."""

    rest: str
    parameters: Mapping[str, list[str]]


Route = Callable[[Query], Answer]


class HttpServer:
    """An HTTP server for GET. `routes` by path; one that ends in a slash gets all paths below it.

    Routes are called in threads, one a request. Port 0 takes any free one.
    """

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        """Listen at once, or raise OSError. Requests are answered from `start` on."""
        self._server = _Server((host, port), _Handler)
        self._server.routes = routes
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="skillfleet-http", daemon=True
        )

    def start(self) -> None:
        """Start answering, in a daemon thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Wait until the server is closed."""
        self._thread.join()

    def forget(self) -> None:
        """Close the parent's socket in a forked child."""
        self._server.socket.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    routes: Mapping[str, Route]


class _Handler(BaseHTTPRequestHandler):
    timeout = _IDLE_SECONDS
    server_version = "skillfleet"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)

    def _answer(self, *, with_body: bool) -> None:
        answer = self._ask()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def _ask(self) -> Answer:
        url = urlsplit(self.path)
        path = unquote(url.path)
        folder, _, last = path.rpartition("/")
        parameters = parse_qs(url.query)
        try:
            if (route := self.server.routes.get(path)) is not None:
                return route(Query("", parameters))
            if last and (route := self.server.routes.get(f"{folder}/")) is not None:
                return route(Query(last, parameters))
        except Exception:
            logger.exception("GET %s failed", path)
            return Answer.text("failed; see the log", HTTPStatus.INTERNAL_SERVER_ERROR)
        return Answer.text("not found", HTTPStatus.NOT_FOUND)
