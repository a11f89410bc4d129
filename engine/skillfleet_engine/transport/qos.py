"""kombu's record of what was delivered and not yet acknowledged, kept in Redis."""

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
    """Like kombu's, in the same keys; but claims write the record, and a turn removes it."""

    channel: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.claimed: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery; only one that no claim recorded must still be written."""
        if delivery_tag in self.claimed:
            self.claimed.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def can_consume_max_estimate(self) -> int | None:  # type: ignore[override]
        """How many more messages the prefetch count allows; None: any number."""
        if not self.prefetch_count:
            return None
        return super().can_consume_max_estimate()

    def ack(self, delivery_tag: str) -> None:
        """Settle a message; it leaves with the other commands of this turn."""
        self.channel.settle(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """Settle a message, or put it back as the last of its queue."""
        if requeue:
            if self.channel.closed:
                # The process's next channel to this broker puts it back.
                self.channel.unsettled.abandoned.add(delivery_tag)
            else:
                self.restore([delivery_tag], leftmost=True)
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put all that is unacknowledged back; what fails is done after a reconnect."""
        del client
        tags, unsettled = list(self._delivered or ()), self.channel.unsettled
        if self._delivered is not None:
            self._delivered.clear()
        unsettled.abandoned.update(set(tags) - unsettled.acknowledged)
        try:
            self.restore_abandoned()
        except BROKEN as error:
            logger.warning("%d messages go back after the next connect: %r", len(tags), error)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Put one message back; kombu's sweep for the visibility timeout calls this."""
        del client
        self.restore([tag], leftmost=leftmost)

    def restore_abandoned(self) -> None:
        """Put back what lost connections left behind."""
        unsettled, channel = self.channel.unsettled, self.channel
        for claim in list(unsettled.unseen_claims):
            score = repr(claim)
            tags = channel.plain_client.zrange(channel.keys.index, score, score, byscore=True)
            unsettled.abandoned.update({bytes_to_str(tag) for tag in tags} - unsettled.acknowledged)
            unsettled.unseen_claims.discard(claim)
        if unsettled.abandoned:
            tags = list(unsettled.abandoned)
            self.restore(tags)
            unsettled.abandoned.difference_update(tags)

    def restore(self, tags: list[str], *, leftmost: bool = False) -> None:
        """Put messages back where they are to be delivered from, each once."""
        channel = self.channel
        tags = [tag for tag in tags if tag not in channel.unsettled.acknowledged]
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
                    keys, payload = self._way_back(record)
                except BROKEN:
                    raise
                except Exception:
                    logger.exception("The message %s cannot be put back: %r", tag, record[:200])
                    continue
                side = "LPUSH" if leftmost else "RPUSH"
                keys = [unacked, index, *keys]
                pipe.eval(source("restore"), len(keys), *keys, tag, side, payload)
            pipe.execute()

    def _way_back(self, record: bytes) -> tuple[list[str], str]:
        """The lists that a message came from, and the message marked as redelivered."""
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
