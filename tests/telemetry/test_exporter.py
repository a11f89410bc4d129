"""`skillfleet exporter`: the demand of a fleet, for KEDA and Prometheus."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import FleetWorker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until
from tests.telemetry.conftest import MODULES
from tests.telemetry.scraping import get, scrape

COMMAND = (sys.executable, "-m", "skillfleet_cli", "exporter")


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def exporter(server: ValkeyServer) -> Iterator[int]:
    """Yield the port of a running exporter."""
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "--port", str(port)],
        env=os.environ
        | {"SKILLFLEET_REDIS_URL": server.url, "SKILLFLEET_REDIS_TIMEOUT_SECONDS": "1"},
    )
    try:
        wait_until(lambda: get(port, "/healthz")[0] == 200, 60, "the exporter")
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def ask(port: int, path: str) -> Any:
    status, body = get(port, path)
    assert status == 200, body
    return json.loads(body)


def test_demand_is_what_waits_and_what_runs_over_all_the_queues_asked_for(
    server: ValkeyServer, exporter: int
) -> None:
    with FleetWorker(server, MODULES), Fleet(server.url) as fleet:
        running = fleet.enqueue_many("watched.waits", [{}] * 3)
        for run in running:
            wait_until(lambda run=run: run.status().events > 1, what="it to run")  # type: ignore[misc]
        fleet.enqueue_many("watched.add", [{"x": 1}] * 4, queue="a queue/of ours")
        fleet.enqueue("watched.add", {"x": 1}, queue="a queue/of ours", priority=9)
        fleet.enqueue("watched.add", {"x": 1}, queue="later", delay=1000)
        both = ask(exporter, "/demand?queue=celery&queue=a%20queue%2Fof%20ours&queue=none")
        assert (both["demand"], both["queued"], both["running"]) == (8, 5, 3)
        assert both["oldest_age_seconds"] > 0
        later = ask(exporter, "/queues/later")
        assert (later["demand"], later["delayed"]) == (0, 1)
        queues = {stats["queue"]: stats for stats in ask(exporter, "/queues")}
        assert queues.keys() == {"celery", "a queue/of ours", "later"}
        metrics = scrape(exporter)
        assert metrics.sum("skillfleet_queue_queued", queue="a queue/of ours") == 5
        assert metrics.sum("skillfleet_queue_running", queue="celery") == 3
        assert metrics.sum("skillfleet_queue_delayed", queue="later") == 1
        assert metrics.sum("skillfleet_queue_oldest_age_seconds", queue="a queue/of ours") > 0
        assert metrics.sum("skillfleet_workers") == 1
        assert metrics.sum("skillfleet_redis_evicted_keys_total") == 0


def test_a_fleet_without_workers_has_demand_for_what_is_due_soon(
    server: ValkeyServer, exporter: int
) -> None:
    with Fleet(server.url) as fleet:
        fleet.schedule("later", "watched.add", {"x": 1}, every=3600, queue="batch")
        assert ask(exporter, "/demand?queue=batch")["demand"] == 0
        fleet.schedule("soon", "watched.add", {"x": 1}, every=20, queue="batch")
        fleet.enqueue("watched.add", {"x": 1}, queue="batch", delay=20)
        found = ask(exporter, "/demand?queue=batch&queue=celery")
        assert (found["demand"], found["due"], found["queued"]) == (2, 2, 0)
        assert scrape(exporter).sum("skillfleet_queue_due", queue="batch") == 2
        fleet.pause_schedule("soon")
        assert ask(exporter, "/demand?queue=batch")["demand"] == 1


def test_an_empty_fleet_has_no_demand(exporter: int) -> None:
    assert ask(exporter, "/demand?queue=celery")["demand"] == 0
    assert [stats["queue"] for stats in ask(exporter, "/queues")] == ["celery"]
    assert get(exporter, "/demand")[0] == 400
    assert get(exporter, "/nothing")[0] == 404


def test_without_redis_the_exporter_is_live_but_serves_no_numbers(
    server: ValkeyServer, exporter: int
) -> None:
    assert get(exporter, "/readyz")[0] == 200
    server.stop()
    assert get(exporter, "/readyz")[0] == 503
    assert get(exporter, "/demand?queue=celery")[0] == 503
    assert get(exporter, "/metrics")[0] == 503
    assert get(exporter, "/healthz")[0] == 200
    server.start()
    assert ask(exporter, "/demand?queue=celery")["demand"] == 0


def test_a_taken_port_is_reported_in_one_line(valkey: ValkeyServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port)],
            env=os.environ | {"SKILLFLEET_REDIS_URL": valkey.url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
