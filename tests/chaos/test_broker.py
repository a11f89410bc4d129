"""Brokers that go away and come back."""

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection

from skillfleet_engine.transport import Transport
from skillfleet_producer import Fleet, Settings
from tests.support.forms import forms
from tests.support.rabbitmq import RabbitServer
from tests.support.valkey import ValkeyServer
from tests.worker.shared import StartWorker, wait_kind

QUEUE = "celery"


def take(connection: Any) -> Any:
    return connection.default_channel.basic_get(QUEUE)


def test_a_message_rejected_after_its_connection_was_lost_is_delivered_again(
    valkey: ValkeyServer,
) -> None:
    with Connection(valkey.url, transport=Transport) as lost:
        lost.Producer().publish({"x": 1}, routing_key=QUEUE, exchange="")
        lost.SimpleQueue(QUEUE).close()
        message = take(lost)
        message.channel.do_restore = False
    assert message.channel.closed
    message.reject(requeue=True)
    with Connection(valkey.url, transport=Transport) as fresh:
        queue = fresh.SimpleQueue(QUEUE)
        again = queue.get(timeout=10)
        assert again.payload == {"x": 1}
        again.ack()
        queue.close()


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    """One node for this module, whose tests restart it."""
    node = RabbitServer()
    try:
        yield node.start()
    finally:
        node.close()


@pytest.mark.xdist_group("rabbitmq")
@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["prefork"]))
def test_a_worker_outlives_a_restart_of_rabbitmq_and_executes_each_run_once(
    pool: str, server: ValkeyServer, rabbit: RabbitServer, start_worker: StartWorker
) -> None:
    settings = Settings.load(redis_url=server.url, broker_url=rabbit.url)
    worker = start_worker("tests.worker.kit", pool=pool, concurrency=2, broker_url=rabbit.url)
    with Fleet(settings=settings) as fleet:
        running = fleet.enqueue("kit.sleep", {"seconds": 4})
        wait_kind(running, "progress")
        rabbit.stop()
        rabbit.start()
        assert fleet.enqueue("kit.add", {"x": 1}).result(timeout=60) == 2
        assert running.result(timeout=30) == 4
        assert [attempt.outcome for attempt in running.status().attempts] == ["succeeded"]
    assert worker.process is not None
    assert worker.process.poll() is None
