"""kombu consumers without Celery, on the engine's transport or on kombu's own."""

import contextlib
import json
import socket
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue

ENGINE = "skillfleet_engine.transport:Transport"


def queue(name: str) -> Queue:
    return Queue(name, Exchange(name), name)


def connect(url: str, transport: str | None, options: dict[str, Any]) -> Any:
    return Connection(url, transport=transport, transport_options=options)


class Reader:
    """Reads queues one message at a time, up to `prefetch` unacknowledged ones."""

    def __init__(
        self,
        url: str,
        *names: str,
        prefetch: int = 0,
        transport: str | None = ENGINE,
        **options: Any,
    ) -> None:
        self.connection = connect(url, transport, options)
        self.channel = self.connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        self.got: list[Any] = []
        queues = [queue(name) for name in names]
        self.consumer = Consumer(self.channel, queues, on_message=self.got.append, accept=["json"])
        self.consumer.consume()

    def drain(self, count: int, timeout: float = 10.0) -> list[Any]:
        """Return the next `count` messages, or those that came before `timeout` silent seconds."""
        wanted = len(self.got) + count
        with contextlib.suppress(socket.timeout):
            while len(self.got) < wanted:
                self.connection.drain_events(timeout=timeout)
        return [message.decode() for message in self.got[wanted - count :]]

    def ack_all(self) -> None:
        """Acknowledge all."""
        for message in self.got:
            if not message.acknowledged:
                message.ack()

    def close(self) -> None:
        self.connection.release()


def publish(
    url: str,
    name: str,
    *bodies: Any,
    priority: int = 0,
    headers: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Publish through kombu's own transport."""
    with Connection(url, transport_options=options) as connection:
        producer = connection.Producer(serializer="json")
        for body in bodies:
            producer.publish(
                body,
                exchange=Exchange(name),
                routing_key=name,
                declare=[queue(name)],
                priority=priority,
                headers=headers,
            )


def commands(client: Any, name: str) -> int:
    """Return how often the server has executed a command."""
    return int(client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def envelope(**changes: Any) -> dict[str, Any]:
    """A message as it is stored in a queue."""
    properties = {
        "delivery_tag": "a-tag",
        "delivery_info": {"exchange": "jobs", "routing_key": "jobs"},
        "body_encoding": "base64",
    }
    whole = {"body": "e30=", "headers": {}, "content-type": "application/json"}
    return whole | {"content-encoding": "utf-8", "properties": properties} | changes


def packed(message: Any) -> bytes:
    return json.dumps(message).encode()
