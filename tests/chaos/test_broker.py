"""A message that is given back while its connection is gone."""

from typing import Any

from kombu import Connection

from skillfleet_engine.transport import Transport
from tests.support.valkey import ValkeyServer

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
