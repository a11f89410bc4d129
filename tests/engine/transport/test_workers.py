"""Celery workers on the engine's transport, alone and beside workers on kombu's."""

import random
import signal
from typing import Any

import pytest

from tests.engine.transport.conftest import StartWorker
from tests.engine.transport.readers import commands
from tests.engine.workers import Worker
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

QUICK_RESTORE = {
    "visibility_timeout": 2,
    "unacked_restore_interval": 0.5,
    "unacked_restore_throttle": 1,
}


def all_acknowledged(client: Any) -> bool:
    counts = client.llen("celery"), client.hlen("unacked"), client.zcard("unacked_index")
    return counts == (0, 0, 0)


def noted(*workers: Worker) -> set[str]:
    return {entry["text"] for worker in workers for entry in worker.entries("note")}


@pytest.mark.parametrize("pool", forms(short=["loop", "prefork"], thorough=["threads"]))
def test_every_pool_works(pool: str, start_worker: StartWorker, server: ValkeyServer) -> None:
    worker = start_worker(pool, concurrency=2)
    for number in range(20):
        worker.send("note", str(number))
    assert worker.call("add", 2, 3) == 5
    worker.wait_for("note", count=20)
    with server.client() as client:
        wait_until(lambda: all_acknowledged(client), what="the acknowledgements")
    worker.signal(signal.SIGTERM)
    assert worker.wait_end() == 0


@pytest.mark.parametrize("late", [True, False])
def test_many_tasks_cost_few_commands(
    late: bool, start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(concurrency=100, task_acks_late=late, task_ignore_result=True)
    with server.client() as client:
        queued = queue_up(worker, client, 500)
        before = commands(client, "evalsha"), commands(client, "multi")
        client.lpush("celery", *queued)
        worker.wait_for("note", count=500)
        wait_until(lambda: all_acknowledged(client), what="the acknowledgements")
        assert commands(client, "evalsha") - before[0] < 100
        # Results are ignored; a stock worker has two transactions a task beside them.
        assert commands(client, "multi") - before[1] < 20


def queue_up(worker: Worker, client: Any, count: int) -> list[bytes]:
    """Messages as a client publishes them, taken out of the worker's sight."""
    for number in range(count):
        worker.send("note", str(number), queue="aside", ignore_result=True)
    found: list[bytes] = client.lrange("aside", 0, -1)
    client.delete("aside")
    return found


@pytest.mark.parametrize("multiplier", [0, 1])
def test_no_worker_hoards(multiplier: int, start_worker: StartWorker, server: ValkeyServer) -> None:
    options = {"concurrency": 2, "worker_prefetch_multiplier": multiplier}
    first = start_worker(**options)
    for _ in range(100):
        first.send("hold", 600.0)
    first.wait_for("held", count=2)
    with server.client() as client:
        wait_until(lambda: client.llen("celery") == 98, what="the first worker to have its share")
        second = start_worker(**options)
        second.wait_for("held", count=2)
        assert client.llen("celery") == 96
        assert client.hlen("unacked") == 4


def wait_for_notes(count: int, workers: list[Worker]) -> None:
    wait_until(lambda: len(noted(*workers)) >= count, what=f"{count} notes")


@pytest.mark.parametrize("other", ["skillfleet_engine.transport:Transport", None])
def test_no_message_is_lost_when_workers_are_killed(
    other: str | None, start_worker: StartWorker, server: ValkeyServer
) -> None:
    """Beside a worker of the same kind, and beside one with kombu's transport."""
    dice = random.Random(7)
    options = {"broker_transport_options": QUICK_RESTORE}
    workers = [start_worker("loop", 5, **options)]
    workers.append(start_worker("threads", 5, broker_transport=other, **options))
    sent = {str(number) for number in range(600)}
    for count, text in enumerate(sorted(sent)):
        workers[0].send("note", text, ignore_result=True)
        if count in (150, 300, 450):
            # Only ours is killed: kombu's may lose a message between BRPOP and its record.
            wait_for_notes(dice.randint(10, count), workers)
            victim = [worker for worker in workers if worker.pool == "loop"][-1]
            victim.process.kill()
            workers.append(start_worker("loop", 5, **options))
    wait_until(lambda: noted(*workers) == sent, 30, "all to be executed")
    with server.client() as client:
        wait_until(lambda: all_acknowledged(client), 30, "all to be acknowledged")


def test_a_message_is_acknowledged_after_the_broker_came_back(
    start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker("loop", 5)
    running = worker.send("hold", 2.0)
    worker.wait_for("beat", running.id)
    server.stop()
    wait_until(lambda: "Cannot connect" in worker.log.read_text(), what="the worker to notice")
    worker.wait_for("over", running.id)
    server.start()
    assert worker.call("add", 2, 3) == 5
    with server.client() as client:
        wait_until(lambda: all_acknowledged(client), what="the acknowledgement")
    assert len(worker.entries("held", running.id)) == 1


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["threads"]))
def test_a_worker_takes_up_its_work_after_restarts_of_the_broker(
    pool: str, start_worker: StartWorker, server: ValkeyServer
) -> None:
    worker = start_worker(pool, 4)
    for round_ in range(3):
        for number in range(20):
            worker.send("note", f"{round_} {number}", ignore_result=True)
        server.stop()
        server.start()
    expected = {f"{round_} {number}" for round_ in range(3) for number in range(20)}
    wait_until(lambda: noted(worker) == expected, 40, f"all to be executed\n{worker.log}")
    with server.client() as client:
        wait_until(lambda: all_acknowledged(client), what="all to be acknowledged")


def test_a_fleet_may_switch_back_and_forth(start_worker: StartWorker, server: ValkeyServer) -> None:
    for transport in ("skillfleet_engine.transport:Transport", None) * 2:
        worker = start_worker("loop", 1, broker_transport=transport)
        running = worker.send("hold", 600.0)
        worker.wait_for("held", running.id)
        worker.send("hold", 0.0)
        worker.signal(signal.SIGQUIT)
        worker.wait_end()
        with server.client() as client:
            assert client.hlen("unacked") == 0
            assert client.llen("celery") >= 1
            client.delete("celery")


def test_priorities_and_several_queues(start_worker: StartWorker, server: ValkeyServer) -> None:
    worker = start_worker("loop", 1, task_queues=None, worker_prefetch_multiplier=1)
    blocker = worker.send("hold", 1.0)
    worker.wait_for("held", blocker.id)
    for priority in (9, 6, 3, 0):
        worker.send("note", str(priority), priority=priority)
    worker.app.control.add_consumer("second", reply=True, timeout=5, limit=1)
    worker.send("note", "second", queue="second", priority=3)
    worker.wait_for("note", count=5)
    order = [entry["text"] for entry in worker.entries("note")]
    assert order[0] == "0"
    assert set(order[1:3]) == {"3", "second"}
    assert order[3:] == ["6", "9"]


def test_remote_control_revocation_events_and_retries_work(start_worker: StartWorker) -> None:
    worker = start_worker("loop", 3)
    control: Any = worker.app.control
    running = worker.send("hold", 600.0)
    worker.wait_for("held", running.id)
    (active,) = control.inspect(timeout=5, limit=1).active().values()
    assert [task["id"] for task in active] == [running.id]
    control.revoke(running.id, terminate=True, reply=True, timeout=5, limit=1)
    worker.wait_for("revoked", running.id)
    assert worker.call("succeed_at", 3) == 3
    worker.send("note", "delayed", countdown=0.3)
    worker.wait_for("note")
    assert worker.call("requeue_once") == "second delivery"
    (stats,) = control.inspect(timeout=5, limit=1).stats().values()
    assert stats["broker"]["transport"] == "redis"
