"""The record of delivered and unacknowledged messages, in kombu's Redis keys."""

import logging
from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from skillfleet_engine.transport.redis_socket import BROKEN
from skillfleet_engine.transport.scripts import source

logger = logging.getLogger(__name__)


class QoS(stock.QoS):
    """kombu's QoS with the same keys; claims write the record, and polls remove from it."""

    channel: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.claimed: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery; write it only when no claim recorded it."""
        if delivery_tag in self.claimed:
            self.claimed.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def can_consume_max_estimate(self) -> int | None:  # type: ignore[override]
        """Return the number of messages that the prefetch count still allows; None for no limit."""
        if not self.prefetch_count:
            return None
        return super().can_consume_max_estimate()

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; sent with the next poll."""
        self.channel.ack(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """Drop a message, or requeue it as the last of its queue."""
        if requeue:
            if self.channel.closed:
                # The process's next channel to this broker requeues it.
                self.channel.pending_acks.to_requeue.add(delivery_tag)
            else:
                self.restore([delivery_tag], leftmost=True)
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Requeue all unacknowledged messages; those that fail follow after a reconnect."""
        del client
        tags, pending_acks = list(self._delivered or ()), self.channel.pending_acks
        if self._delivered is not None:
            self._delivered.clear()
        pending_acks.to_requeue.update(set(tags) - pending_acks.acknowledged)
        try:
            self.requeue_pending()
        except BROKEN as error:
            logger.warning("%d messages are requeued after the next connect: %r", len(tags), error)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Requeue one message; kombu's sweep for the visibility timeout calls this."""
        del client
        self.restore([tag], leftmost=leftmost)

    def requeue_pending(self) -> None:
        """Requeue what lost connections left unacknowledged."""
        pending_acks, channel = self.channel.pending_acks, self.channel
        for claim in list(pending_acks.unconfirmed_claims):
            score = repr(claim)
            tags = channel.plain_client.zrange(channel.keys.index, score, score, byscore=True)
            pending_acks.to_requeue.update(
                {bytes_to_str(tag) for tag in tags} - pending_acks.acknowledged
            )
            pending_acks.unconfirmed_claims.discard(claim)
        if pending_acks.to_requeue:
            tags = list(pending_acks.to_requeue)
            self.restore(tags)
            pending_acks.to_requeue.difference_update(tags)

    def restore(self, tags: list[str], *, leftmost: bool = False) -> None:
        """Requeue messages, each once."""
        channel = self.channel
        tags = [tag for tag in tags if tag not in channel.pending_acks.acknowledged]
        if not tags:
            return
        unacked, index = (
            channel.keys.full(self.unacked_key),
            channel.keys.index,
        )
        client = channel.plain_client
        with client.pipeline(transaction=False) as pipe:
            for tag, record in zip(tags, client.hmget(unacked, tags), strict=True):
                if record is None:
                    pipe.zrem(index, tag)
                    continue
                try:
                    keys, payload = self._origin(record)
                except BROKEN:
                    raise
                except Exception:
                    logger.exception("The message %s cannot be requeued: %r", tag, record[:200])
                    continue
                side = "LPUSH" if leftmost else "RPUSH"
                keys = [unacked, index, *keys]
                pipe.eval(source("restore"), len(keys), *keys, tag, side, payload)
            pipe.execute()

    def _origin(self, record: bytes) -> tuple[list[str], str]:
        """Return the lists that a message came from, and the message, marked as redelivered."""
        channel = self.channel
        payload, exchange, routing_key = loads(bytes_to_str(record))
        for mapping in (payload.get("headers"), payload["properties"]["delivery_info"]):
            if isinstance(mapping, dict):
                mapping["redelivered"] = True
        priority = channel._get_message_priority(payload, reverse=False)  # noqa: SLF001
        queues = channel._lookup(exchange, routing_key)  # noqa: SLF001
        if not queues:
            raise LookupError(f"no queue is bound to {exchange!r} with {routing_key!r}")
        return [channel.keys.list_of(queue, priority) for queue in queues], dumps(payload)
