"""The probes of a worker, as Kubernetes calls them, in every pool."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from skillfleet_worker import WorkerSettings
from skillfleet_worker.services.health import Health
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.telemetry.conftest import MODULES, Watched, watched
from tests.telemetry.receiver import Receiver
from tests.telemetry.scraping import get

OFF = {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}


@pytest.fixture(params=POOL_FORMS)
def probed(request: pytest.FixtureRequest) -> Iterator[tuple[Watched, int]]:
    port = free_port()
    with (
        Receiver() as receiver,
        watched(
            request.param,
            receiver,
            OFF,
            concurrency=2,
            probe_port=port,
            blocked_seconds=1,
            redis_timeout_seconds=1,
        ) as fleet,
    ):
        yield fleet, port


def status(port: int, path: str) -> int:
    return get(port, path)[0]


def test_a_worker_is_not_ready_without_redis_or_while_it_drains(
    probed: tuple[Watched, int],
) -> None:
    seen, port = probed
    for path in ("/startupz", "/livez", "/readyz"):
        wait_until(lambda path=path: status(port, path) == 200, what=path)  # type: ignore[misc]
    assert status(port, "/metrics") == 404, "metrics are not enabled"
    assert status(port, "/nothing") == 404

    seen.server.stop()
    wait_until(lambda: status(port, "/readyz") == 503, 30, "not to be ready")
    assert status(port, "/livez") == 200, get(port, "/livez")
    seen.server.start()
    wait_until(lambda: status(port, "/readyz") == 200, 60, "to be ready again")

    run = seen.fleet.enqueue("watched.waits")
    wait_until(lambda: run.status().events > 1, 60, what="a run to drain for")
    seen.worker.send_signal(signal.SIGTERM)
    wait_until(lambda: status(port, "/readyz") == 503, what="not to be ready")
    assert "shutting down" in get(port, "/readyz")[1]
    assert status(port, "/livez") == 200
    run.cancel()
    assert seen.worker.wait_end(60) == 0
    assert status(port, "/livez") == 0


def test_a_blocked_loop_is_not_live(receiver: Receiver) -> None:
    port = free_port()
    with watched("loop", receiver, OFF, probe_port=port, blocked_seconds=0.5) as seen:
        run = seen.fleet.enqueue("watched.blocks", {"seconds": 4})
        reported = "the event loop has not turned"
        wait_until(lambda: reported in get(port, "/livez")[1], what="not to be live")
        wait_until(lambda: status(port, "/livez") == 200, what="to be live again")
        run.result(timeout=60)


def test_a_worker_is_live_while_one_of_its_children_is_stopped(receiver: Receiver) -> None:
    port = free_port()
    options = {"probe_port": port, "blocked_seconds": 1}
    with watched("prefork", receiver, OFF, concurrency=1, **options) as seen:
        wait_until(lambda: status(port, "/livez") == 200, what="to be live")
        (child,) = seen.worker.children()
        os.kill(child, signal.SIGSTOP)
        try:
            assert get(port, "/livez") == (200, "ok\n"), "children are watched by their own guard"
        finally:
            os.kill(child, signal.SIGCONT)


@dataclass
class Standing:
    """A worker whose consumer runs only when the test lets it."""

    settings: WorkerSettings
    consumer: Any = None
    process: Any = None


def test_a_blocked_consumer_is_not_live_unless_it_waits_for_the_broker() -> None:
    ticks: list[Callable[[], None]] = []
    timer = SimpleNamespace(call_repeatedly=lambda _, tick: ticks.append(tick))
    worker = Standing(WorkerSettings.load(blocked_seconds=0.01))
    health = Health(worker)
    assert health.not_started() is not None
    assert health.not_live() is None, "its consumer has not started"
    worker.consumer = SimpleNamespace(hub=SimpleNamespace(timer=timer), connection=object())
    health.watch_consumer(worker.consumer)
    assert health.not_started() is None
    assert "the consumer has not turned" in str(wait_until(health.not_live))
    (tick,) = ticks

    def is_live_after_a_tick() -> bool:
        tick()
        return health.not_live() is None

    wait_until(is_live_after_a_tick)
    wait_until(health.not_live)
    worker.consumer.connection = None
    assert health.not_live() is None
    assert health.not_ready() == "the broker is unreachable"


def test_a_worker_reports_that_its_probe_port_is_taken(valkey: ValkeyServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = FleetWorker(valkey, MODULES, probe_port=port)
        try:
            worker.launch()
            assert worker.wait_end(60) != 0
            assert f"SKILLFLEET_PROBE_PORT: cannot listen on 127.0.0.1:{port}" in worker.text()
        finally:
            worker.close()


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_worker_is_live_to_the_end_of_a_long_drain(pool: str, receiver: Receiver) -> None:
    """The drain takes much longer than the probe's limit, here a second and a half."""
    port = free_port()
    options = {"probe_port": port, "blocked_seconds": 0.5, "drain_seconds": 60, "concurrency": 2}
    with watched(pool, receiver, OFF, **options) as seen:
        run = seen.fleet.enqueue("watched.waits")
        wait_until(lambda: run.status().events > 1, 60, what="a run to drain for")
        seen.worker.send_signal(signal.SIGTERM)
        wait_until(lambda: status(port, "/readyz") == 503, what="the drain")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert get(port, "/livez")[0] == 200, get(port, "/livez")
            time.sleep(0.2)
        run.cancel()
        assert seen.worker.wait_end(60) == 0
