"""Egress of sandboxes on real workers: the secrets of skills, on each pool's event loop."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.adapters.sandbox.conftest import KINDS, open_folder, require
from tests.support.fleet import POOL_FORMS
from tests.support.tls import write_certificate
from tests.worker.shared import StartWorker

SECRET = "the-value-for-one-host"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        right = self.headers["Authorization"] == f"Bearer {SECRET}"
        body = b"right" if right else b"wrong"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _host(folder: Path) -> Iterator[tuple[int, Path]]:
    """Serve TLS as localhost; yields the port and the certificate."""
    certificate, key = write_certificate(folder, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], certificate
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_the_secret_of_a_skill_reaches_its_host_only(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    kind = KINDS[pool == "prefork"]
    require(kind)
    with open_folder() as place, _host(tmp_path) as (port, certificate):
        worker = start_worker(
            "tests.worker.reaching",
            pool=pool,
            sandbox=kind,
            sandbox_directory=place / "sandboxes",
            sandbox_egress_ports=port,
            sandbox_egress_networks="127.0.0.0/8,::1",
            sandbox_egress_ca_file=certificate,
            secret_api_key=SECRET,
        )
        for _ in range(2):
            assert own_fleet.enqueue("reaching.ask", {"port": port}).result(timeout=60) == "right"
        with pytest.raises(RunFailed, match="did not declare the secret 'api-key'"):
            own_fleet.enqueue("reaching.undeclared").result(timeout=60)
        assert "host localhost, passed" in worker.text()
        assert SECRET not in worker.text()
