"""The same guarantees with RabbitMQ as the broker; the ledger stays in Redis."""

import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunCancelled
from skillfleet_producer import Fleet, Settings
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.rabbitmq import RabbitServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_kind, wait_state

pytestmark = pytest.mark.xdist_group("rabbitmq")
JSON = "application/json"
QUICK = {
    "lease_seconds": 2,
    "reap_seconds": 0.2,
    "stranded_seconds": 2,
    "cancel_grace_seconds": 0.2,
}


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    """One node for this module."""
    server = RabbitServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def strict_rabbit() -> Iterator[RabbitServer]:
    """One node for this module whose consumers have a second to acknowledge."""
    server = RabbitServer(consumer_timeout=1)
    try:
        yield server.start()
    finally:
        server.close()


def purge(connection: Any) -> int:
    """Empty the queue; returns how many messages it held."""
    with suppress(*connection.channel_errors):
        return int(connection.channel().queue_purge("celery"))
    return 0


@pytest.fixture(autouse=True)
def _empty_queue(rabbit: RabbitServer) -> None:
    with kombu.Connection(rabbit.url) as connection:
        purge(connection)


@pytest.fixture
def rabbit_fleet(server: ValkeyServer, rabbit: RabbitServer) -> Iterator[Fleet]:
    """A producer on the two servers."""
    settings = Settings.load(redis_url=server.url, broker_url=rabbit.url)
    with Fleet(settings=settings) as fleet:
        yield fleet


def start(start_worker: StartWorker, rabbit: RabbitServer, **options: object) -> FleetWorker:
    return start_worker("tests.worker.kit", broker_url=rabbit.url, **(QUICK | options))


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_runs_execute_stream_and_cancel(
    pool: str, start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet
) -> None:
    start(start_worker, rabbit, pool=pool)
    assert rabbit_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2
    many = rabbit_fleet.enqueue_many("kit.add", [{"x": x} for x in range(50)])
    assert [run.result(timeout=30) for run in many] == [x + 1 for x in range(50)]
    run = rabbit_fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    run.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        run.result(timeout=20)


def test_a_plain_celery_client_sends_waits_and_revokes(
    server: ValkeyServer, start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet
) -> None:
    start(start_worker, rabbit)
    with celery.Celery(broker=rabbit.url, backend=server.url, set_as_current=False) as client:
        assert client.send_task("kit.add", kwargs={"x": 4}).get(timeout=20) == 5
        sleeping = client.send_task("kit.sleep", kwargs={"seconds": 600})
        wait_until(lambda: sleeping.id in {run.id for run in rabbit_fleet.runs("running")})
        sleeping.revoke()
        wait_until(lambda: str(sleeping.state) == "REVOKED", what="the revoked state")
    assert rabbit_fleet.run(sleeping.id).status().state is RunState.CANCELLED


def test_a_killed_workers_run_continues_on_another_worker(
    start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet, tmp_path: Path
) -> None:
    first = start(start_worker, rabbit)
    journal, until = tmp_path / "journal", tmp_path / "until"
    run = rabbit_fleet.enqueue("kit.drains", {"until": str(until), "journal": str(journal)})
    wait_kind(run, "progress")
    first.send_signal(signal.SIGKILL)
    first.wait_end()
    until.touch()
    start(start_worker, rabbit)
    assert run.result(timeout=40) == "ended"
    outcomes = [attempt.outcome for attempt in run.status().attempts]
    assert outcomes == ["lost", "succeeded"]
    assert journal.read_text().split("\n")[:-1] == [
        f"{run.id} 1 start",
        f"{run.id} 2 start",
        f"{run.id} 2 end",
    ]


def test_a_drained_workers_run_is_released_and_continues_on_another_worker(
    start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet, tmp_path: Path
) -> None:
    first = start(start_worker, rabbit, drain_seconds=0.5)
    until = tmp_path / "until"
    arguments = {"until": str(until), "journal": str(tmp_path / "journal")}
    run = rabbit_fleet.enqueue("kit.drains", arguments)
    wait_kind(run, "progress")
    start(start_worker, rabbit)
    first.send_signal(signal.SIGTERM)
    assert first.wait_end() == 0
    until.touch()
    assert run.result(timeout=40) == "ended"
    assert [attempt.outcome for attempt in run.status().attempts] == ["released", "succeeded"]


def test_a_run_whose_message_the_broker_lost_is_published_again(
    start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet
) -> None:
    run = rabbit_fleet.enqueue("kit.add", {"x": 1})
    with kombu.Connection(rabbit.url) as connection:
        assert purge(connection) == 1
    start(start_worker, rabbit)
    assert run.result(timeout=40) == 2


def test_a_message_that_is_no_task_is_kept_with_its_reason_and_the_worker_goes_on(
    server: ValkeyServer, start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet
) -> None:
    start(start_worker, rabbit)
    with kombu.Connection(rabbit.url) as connection, connection.Producer() as producer:
        producer.publish(b"\xff\xfe garbage", routing_key="celery", content_type=JSON)
        producer.publish(json.dumps({"a": 1}), routing_key="celery", content_type=JSON)
    with server.client() as client:
        wait_until(
            lambda: client.xlen("{skillfleet:0}:dead_letters") == 2, what="two refused messages"
        )
    assert rabbit_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2


def test_parents_that_wait_for_children_leave_their_slots_to_them(
    start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet
) -> None:
    start(start_worker, rabbit, concurrency=2)
    parents = [rabbit_fleet.enqueue("kit.parent", {"n": 3}) for _ in range(10)]
    expected = sum(range(3))
    assert [parent.result(timeout=60) for parent in parents] == [expected] * 10


def test_a_queued_run_stays_queued_while_its_broker_is_away_and_then_executes(
    start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet
) -> None:
    rabbit_fleet.enqueue("kit.add", {"x": 1})
    rabbit.stop()
    try:
        run = rabbit_fleet.enqueue("kit.add", {"x": 2})
        assert run.status().state is RunState.QUEUED
    finally:
        rabbit.start()
    start(start_worker, rabbit)
    wait_state(run, RunState.SUCCEEDED, timeout=60)
    assert run.result() == 3


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_a_run_outlasts_the_time_that_the_broker_gives_for_acknowledgements(
    pool: str,
    start_worker: StartWorker,
    server: ValkeyServer,
    strict_rabbit: RabbitServer,
    tmp_path: Path,
) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    arguments = {"until": str(until), "journal": str(journal)}
    settings = Settings.load(redis_url=server.url, broker_url=strict_rabbit.url)
    with Fleet(settings=settings) as fleet:
        worker = start(start_worker, strict_rabbit, pool=pool, concurrency=3)
        long = fleet.enqueue("kit.drains", arguments)
        wait_kind(long, "progress")
        wait_until(lambda: "PRECONDITION_FAILED" in worker.text(), 60, "the broker's refusal")
        others = [fleet.enqueue("kit.add", {"x": x}) for x in range(10)]
        assert [run.result(timeout=60) for run in others] == [x + 1 for x in range(10)]
        until.touch()
        assert long.result(timeout=60) == "ended"
        assert fleet.enqueue("kit.add", {"x": 1}).result(timeout=60) == 2
        lines = journal.read_text().splitlines()
        assert lines == [f"{long.id} 1 start", f"{long.id} 1 end"]
        assert "Unrecoverable" not in worker.text()
        assert "Couldn't ack" not in worker.text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait_end() == 0


def test_a_plain_client_s_chain_and_limits_are_kept_through_a_retry(
    start_worker: StartWorker, rabbit: RabbitServer, rabbit_fleet: Fleet, server: ValkeyServer
) -> None:
    start_worker("tests.worker.kit,tests.worker.ends", broker_url=rabbit.url, **QUICK)
    app = celery.Celery("plain", broker=rabbit.url, backend=server.url, set_as_current=False)
    once = app.signature("ends.second_try", kwargs={"value": 4}).set(priority=3)
    chained = celery.chain(once, app.signature("kit.add", kwargs={"y": 1}))()
    assert chained.get(timeout=30) == 5
    assert rabbit_fleet.run(chained.parent.id).status().attempt == 2
    limited = app.send_task("kit.sleep", kwargs={"seconds": 600.0}, time_limit=1)
    with pytest.raises(Exception, match="time limit of 1 s"):
        limited.get(timeout=30)
    assert wait_state(rabbit_fleet.run(limited.id), RunState.TIMED_OUT).attempt == 1
