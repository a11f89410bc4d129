"""Stopping a worker while tasks run: warm, soft and cold."""

import signal

import pytest

from tests.engine.conftest import StartWorker
from tests.engine.workers import Worker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

POOLS = pytest.mark.parametrize("pool", ["loop", "prefork"])


def queued(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.llen("celery"))


def unacknowledged(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.hlen("unacked"))


def interrupt_twice(worker: Worker) -> None:
    """Ask for a warm shutdown, then for a cold one, like two Ctrl+C."""
    worker.signal(signal.SIGINT)
    wait_until(lambda: "Hitting Ctrl+C again" in worker.log.read_text())
    worker.signal(signal.SIGINT)


@POOLS
def test_a_warm_shutdown_finishes_what_runs_and_returns_the_rest(
    start_worker: StartWorker, server: ValkeyServer, pool: str
) -> None:
    worker = start_worker(pool, 2, task_acks_late=True)
    running = [worker.send("hold", 2.0) for _ in range(2)]
    waiting = [worker.send("hold", 2.0) for _ in range(3)]
    worker.wait_for("held", count=2)
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    assert [result.get(timeout=5) for result in running] == ["held", "held"]
    assert queued(server) == len(waiting)
    assert unacknowledged(server) == 0
    assert worker.entries("process_shutdown")


@POOLS
def test_a_cold_shutdown_cancels_what_runs_and_returns_it(
    start_worker: StartWorker, server: ValkeyServer, pool: str
) -> None:
    worker = start_worker(pool, 2, task_acks_late=True)
    running = worker.send("hold", 600.0)
    worker.wait_for("beat", running.id)
    worker.signal(signal.SIGQUIT)
    worker.wait_end()
    assert queued(server) == 1
    assert unacknowledged(server) == 0
    assert running.state == "PENDING"
    if pool == "loop":
        assert worker.entries("cancelled", running.id)


@POOLS
def test_a_soft_shutdown_lets_short_tasks_finish_first(
    start_worker: StartWorker, server: ValkeyServer, pool: str
) -> None:
    worker = start_worker(pool, 2, task_acks_late=True, worker_soft_shutdown_timeout=4)
    short, long = worker.send("hold", 2.0), worker.send("hold", 600.0)
    worker.wait_for("beat", short.id)
    worker.wait_for("beat", long.id)
    worker.signal(signal.SIGQUIT)
    worker.wait_end()
    assert short.get(timeout=5) == "held"
    assert queued(server) == 1
    assert unacknowledged(server) == 0


@POOLS
def test_a_second_interrupt_ends_a_warm_shutdown(
    start_worker: StartWorker, server: ValkeyServer, pool: str
) -> None:
    worker = start_worker(pool, 2, task_acks_late=True)
    running = worker.send("hold", 600.0)
    worker.wait_for("beat", running.id)
    interrupt_twice(worker)
    worker.wait_end()
    assert queued(server) == 1


def test_events_and_acknowledgements_are_sent_while_a_warm_shutdown_waits(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(task_acks_late=True)
    short, long = worker.send("hold", 1.0), worker.send("hold", 600.0)
    worker.wait_for("beat", short.id)
    worker.wait_for("beat", long.id)
    worker.signal(signal.SIGTERM)
    assert short.get(timeout=30) == "held"
    wait_until(lambda: unacknowledged(server) == 1, what="the short task's acknowledgement")
    worker.signal(signal.SIGQUIT)
    worker.wait_end()
    assert queued(server) == 1


def test_a_task_that_ignores_its_cancellation_does_not_hold_up_a_cold_shutdown(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(task_acks_late=True, engine_cancel_grace=1)
    stubborn = worker.send("ignore_cancellation")
    worker.wait_for("held", stubborn.id)
    worker.signal(signal.SIGQUIT)
    worker.wait_end()
    assert worker.entries("cancelled", stubborn.id)
