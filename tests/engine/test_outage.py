"""The broker stops and comes back while tasks run."""

import signal
import time

from tests.engine.conftest import StartWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def test_handlers_continue_while_the_broker_is_down_and_the_worker_reconnects(
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


def test_handlers_continue_while_the_broker_is_silent(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    """This includes the times of heartbeats, which wait for an answer."""
    patience = {"socket_timeout": 1, "socket_connect_timeout": 1}
    worker = start_worker(task_acks_late=True, broker_transport_options=patience)
    running = worker.send("hold", 600.0)
    worker.wait_for("beat", running.id)
    server.signal(signal.SIGSTOP)
    silent = time.time()
    try:
        # After three heartbeats.
        wait_until(lambda: worker.entries("beat", running.id)[-1]["at"] > silent + 6, 30, "beats")
    finally:
        server.signal(signal.SIGCONT)
    assert worker.call("add", 2, 3) == 5
    assert not worker.entries("cancelled", running.id)


def test_a_task_that_outlives_the_connection_is_executed_once(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(task_acks_late=True)
    running = worker.send("hold", 3.0)
    worker.wait_for("beat", running.id)
    server.stop()
    wait_until(lambda: "Cannot connect" in worker.log.read_text(), what="the worker to notice")
    server.start()
    assert running.get(timeout=30) == "held"
    with server.client() as client:
        wait_until(lambda: client.hlen("unacked") == 0, what="the acknowledgement")
        assert client.llen("celery") == 0
    assert worker.call("add", 2, 3) == 5
    assert len(worker.entries("held", running.id)) == 1


def test_a_cut_connection_returns_tasks_that_had_not_begun_and_no_others(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(concurrency=2, task_acks_late=True, worker_disable_prefetch=False)
    running = worker.send("hold", 2.0)
    later = worker.send("note", "later", countdown=2)
    with server.client() as client:
        worker.wait_for("beat", running.id)
        wait_until(lambda: later.id in str(client.hvals("unacked")), what="the ETA's delivery")
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
    assert running.get(timeout=30) == "held"
    assert later.get(timeout=30) == "later"
    assert len(worker.entries("held", running.id)) == 1
    assert len(worker.entries("note", later.id)) == 1


def test_a_worker_that_waits_for_its_broker_can_be_stopped(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker()
    server.stop()
    wait_until(lambda: "Cannot connect" in worker.log.read_text(), what="the worker to notice")
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0
