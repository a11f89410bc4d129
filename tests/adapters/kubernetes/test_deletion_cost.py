"""A worker reports to Kubernetes what removing its pod costs."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from skillfleet.errors import SettingsError
from skillfleet_adapters.kubernetes.deletion_cost import BUSY, MOST_MINUTES, deletion_cost
from skillfleet_producer import Fleet
from skillfleet_worker import WorkerSettings, create_app
from tests.support.fleet import fleet_starter
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

PATH = "/api/v1/namespaces/agents/pods/worker-1"


class ApiServer(ThreadingHTTPServer):
    """The one call of the API server that the worker makes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.patches: list[dict[str, Any]] = []
        self.refusals = 0

    @property
    def costs(self) -> list[str]:
        """The costs that were written, in order."""
        key = "controller.kubernetes.io/pod-deletion-cost"
        return [patch["metadata"]["annotations"][key] for patch in self.patches]


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_PATCH(self) -> None:  # the name that http.server calls
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = (
            self.path == PATH
            and self.headers["Authorization"] == "Bearer sesame"
            and self.headers["Content-Type"] == "application/merge-patch+json"
        )
        if right:
            self.server.patches.append(json.loads(body))
        else:
            self.server.refusals += 1
        self.send_response(200 if right else 403)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_the_cost_grows_with_the_oldest_run_up_to_a_day() -> None:
    assert deletion_cost(None, 1000.0) == 0
    assert deletion_cost(1000.0, 1000.0) == BUSY
    assert deletion_cost(1000.0, 1000.0 + 3 * 60) == BUSY + 3
    assert deletion_cost(0.0, 10.0**9) == BUSY + MOST_MINUTES


def test_a_worker_writes_it_when_it_turns_busy_and_idle(
    valkey: ValkeyServer, api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The proxy of the skills, where nothing listens.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "token").write_text("sesame\n")
    settings = {
        "pod_deletion_cost": True,
        "pod_name": "worker-1",
        "pod_namespace": "agents",
        "kubernetes_url": f"http://127.0.0.1:{api.server_port}",
        "kubernetes_account": tmp_path,
    }
    with fleet_starter(valkey) as start, Fleet(valkey.producer_url) as fleet:
        start("tests.worker.kit", **settings)
        wait_until(lambda: api.costs == ["0"], what="an idle worker's cost")
        run = fleet.enqueue("kit.sleep", {"seconds": 600})
        wait_until(lambda: api.costs == ["0", "10"], what="a busy worker's cost")
        run.cancel()
        wait_until(lambda: api.costs == ["0", "10", "0"], what="an idle worker's cost again")
    assert api.refusals == 0


def test_prefork_workers_cannot_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "POD_DELETION_COST": "true",
        "POD_NAME": "w",
        "POD_NAMESPACE": "agents",
    }.items():
        monkeypatch.setenv(f"SKILLFLEET_{name}", value)
    settings = WorkerSettings.load()
    with pytest.raises(SettingsError, match="SKILLFLEET_POD_DELETION_COST"):
        create_app("tests.worker.kit", settings=settings, pool="prefork")
