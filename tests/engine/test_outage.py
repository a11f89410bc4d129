"""The broker goes away and comes back while tasks run."""

import signal

import pytest

from tests.engine.conftest import StartWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def test_handlers_go_on_while_the_broker_is_away_and_the_worker_returns(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(task_acks_late=True)
    running = worker.send("hold", 600.0)
    worker.wait_for("beat", running.id)
    server.stop()
    wait_until(lambda: "Cannot connect" in worker.log.read_text(), what="the worker to notice")
    before = len(worker.entries("beat", running.id))
    worker.wait_for("beat", running.id, count=before + 20)
    assert worker.log.read_text().count("Cannot connect") < 20
    server.start()
    assert worker.call("add", 2, 3) == 5
    before = len(worker.entries("beat", running.id))
    worker.wait_for("beat", running.id, count=before + 5)
    assert not worker.entries("cancelled", running.id)
    assert not worker.entries("blocked")


def test_a_task_that_ends_during_the_outage_spares_the_others(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker()
    running = worker.send("hold", 600.0)
    ending = worker.send("hold", 1.0)
    worker.wait_for("beat", ending.id)
    server.stop()
    before = len(worker.entries("beat", running.id))
    worker.wait_for("beat", running.id, count=before + 60)
    assert not worker.entries("blocked")
    server.start()
    assert worker.call("add", 2, 3) == 5
    assert ending.get(timeout=30) == "held"


def test_a_worker_that_waits_for_its_broker_can_be_stopped(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker()
    server.stop()
    wait_until(lambda: "Cannot connect" in worker.log.read_text(), what="the worker to notice")
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0


@pytest.mark.parametrize("pause", [5])
def test_a_stopped_broker_process_does_not_stop_the_handlers(
    start_worker: StartWorker, server: ValkeyServer, pause: int
) -> None:
    worker = start_worker()
    running = worker.send("hold", 600.0)
    worker.wait_for("beat", running.id)
    server.signal(signal.SIGSTOP)
    try:
        before = len(worker.entries("beat", running.id))
        worker.wait_for("beat", running.id, count=before + pause * 20)
    finally:
        server.signal(signal.SIGCONT)
    assert worker.call("add", 2, 3) == 5
