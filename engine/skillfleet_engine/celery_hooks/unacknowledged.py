"""Unacknowledged messages of a lost connection to Redis.

On Redis a message can be acknowledged over any connection. kombu 5.7 does not use this: when a
connection is lost it requeues the messages of running tasks, which are then executed twice, or
ends the worker with an AttributeError. Here the message of a running task moves to the new
connection and is acknowledged there; only messages of tasks that had not begun are requeued.
"""

from typing import Any

from celery.worker import state
from kombu.transport import redis


class Unacknowledged:
    """The messages of lost connections, until there is a new one; on the consumer's thread."""

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._running: set[str] = set()

    def collect(self, connection: Any) -> None:
        """Take the messages of a lost connection, so that closing it does not requeue them."""
        # Only kombu's own (virtual) transports list their channels; AMQP brokers redeliver.
        for channel in getattr(connection.transport, "channels", None) or ():
            if isinstance(channel, redis.Channel) and channel.ack_emulation:
                channel.do_restore = False
                self._messages += unacknowledged_of(channel)
        self._running |= {request.message.delivery_tag for request in state.active_requests}

    def move_to(self, channel: Any) -> None:
        """Move the messages of running tasks to a new channel, and requeue the others."""
        while self._messages:
            message = self._messages[-1]
            if message.delivery_tag in self._running:
                message.channel = channel
                channel.qos._quick_append(message.delivery_tag, message)  # noqa: SLF001 - see above
            else:
                channel.qos.restore_by_tag(message.delivery_tag, leftmost=True)
            self._messages.pop()
        self._running.clear()


def unacknowledged_of(channel: Any) -> list[Any]:
    """Return the messages that a channel delivered and that are not acknowledged."""
    channel.qos._flush()  # noqa: SLF001 - kombu has no public way
    return list(channel.qos._delivered.values())  # noqa: SLF001
