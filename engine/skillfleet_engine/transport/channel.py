"""kombu's Redis channel with its own way of fetching and acknowledging messages."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import orjson
import redis
from kombu.exceptions import DecodeError
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from skillfleet_engine.transport.fetcher import MessageFetcher
from skillfleet_engine.transport.keys import Keys
from skillfleet_engine.transport.pending_acks import PendingAcks, pending_acks_of
from skillfleet_engine.transport.qos import QoS
from skillfleet_engine.transport.redis_socket import BROKEN
from skillfleet_engine.transport.scripts import source
from skillfleet_engine.transport.slots import free_slots
from skillfleet_engine.transport.undecodable import announce

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 100
_JSON = "application/json"
# Beyond 64 bits orjson reads a float. A regular expression takes ten times as long to find one.
_BIG_NUMBER = b"0" * 19
_DIGITS_AS_ZEROS = bytes(0x30 if byte in b"0123456789" else byte for byte in range(256))
LEAVE_SECONDS = 5.0


class Message(virtual.Message):
    """kombu's message; plain JSON is decoded without the hook for typed values."""

    def _decode(self) -> Any:
        body = self.body
        if (
            self.content_type != _JSON
            or not isinstance(body, bytes)
            or not body
            or (self.accept is not None and _JSON not in self.accept)
            or (self.content_encoding or "utf-8").lower() != "utf-8"
            or _may_be_typed(body)
        ):
            return super()._decode()
        try:
            return _plain(body)
        except ValueError as error:
            raise DecodeError(f"the body is not valid JSON: {error}") from error


class Channel(stock.Channel):
    """A channel on kombu's lists, hashes and bindings; fetcher.py describes the differences.

    Transport options in addition to kombu's: `wakeup_timeout` (seconds after which an idle worker
    polls without having been woken), `undecodable_key`, `undecodable_limit`, `max_message_bytes`
    (larger messages count as undecodable and never leave the server; 0: no limit).
    """

    QoS = QoS
    Message = Message
    wakeup_timeout = 5.0
    undecodable_key = "undecodable"
    undecodable_limit = 1000
    max_message_bytes = 0
    from_transport_options = (
        *stock.Channel.from_transport_options,
        "wakeup_timeout",
        "undecodable_key",
        "undecodable_limit",
        "max_message_bytes",
    )

    # Attributes of kombu's channel that its stubs lack.
    connection: Any
    qos: Any
    _queue_cycle: Any
    _maybe_update_queues_expire: Any
    _connparams: Any
    _create_client: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._no_ack_queues: set[str] = set()
        self._client_of_pool: tuple[Any, Any, Any] = (None, None, None)
        self._consuming_thread = 0
        super().__init__(*args, **kwargs)
        self.keys = Keys(self)
        poller, info = self.connection.cycle, self.connection.client
        self.fetcher = MessageFetcher(self, poller.watch, poller.unwatch)
        broker = (info.hostname, info.port, info.virtual_host, self.keys.unacked)
        self.pending_acks: PendingAcks = pending_acks_of(broker)

    # -- consuming

    @property
    def claims(self) -> bool:
        """True when messages are claimed; consumers without acknowledgements use kombu's way."""
        return bool(self.ack_emulation) and any(
            queue not in self._no_ack_queues for queue in self.active_queues
        )

    def queues_round_robin(self) -> tuple[str, ...]:
        """Return the queues to claim from, in round-robin order."""
        return tuple(self._queue_cycle.consume(len(self.active_queues))) if self.claims else ()

    def poll(self) -> None:
        """Send what is due: acknowledgements, claims, blocking waits."""
        if self.closed:
            return
        claims = self.claims
        if claims or self.fetcher.is_open:
            self._consuming_thread = threading.get_ident()
            # Without an event hub one message is claimed at a time, as kombu does.
            most = MOST_AT_ONCE if self.connection.cycle.hub is not None else 1
            self.fetcher.poll(free_slots(self, most) if claims else 0)

    def poll_soon(self) -> None:
        """Have the event hub, if there is one, poll this channel; from another thread."""
        hub = self.connection.cycle.hub
        if hub is not None:
            hub.call_soon(self.poll)

    def poll_after_coroutines(self) -> bool:
        """Poll again after the loop's coroutines ran; False where no event loop hosts the hub.

        kombu's own hub ignores such calls until its next poll ends: for up to a second.
        """
        hub = self.connection.cycle.hub
        hosted = hub is not None and getattr(hub.poller, "wakes_for_ticks", False)
        if hosted:
            hub.call_soon(self.poll)
        return hosted

    def deliver(self, queues: tuple[str, ...], claimed: list[Any], refused: list[Any]) -> None:
        """Deliver the messages of a claim from `queues`; both lists as the script returns them."""
        for position, raw, reason in _triples(refused):
            self._refuse(queues[(position - 1) % len(queues)], raw, bytes_to_str(reason))
        for position, raw, raw_tag in _triples(claimed):
            queue = queues[(position - 1) % len(queues)]
            self._queue_cycle.rotate(queue)
            tag = bytes_to_str(raw_tag)
            self.qos.claimed.add(tag)
            try:
                self.connection._deliver(_decoded(raw, tag), queue)  # noqa: SLF001
            except (*BROKEN, MemoryError):
                raise
            except Exception as error:
                # A faulty message must not end the worker, now or at each redelivery.
                logger.exception("The message %s cannot be delivered", tag)
                self._refuse(queue, raw, f"{type(error).__name__}: {error}", tag)
            else:
                if queue in self._no_ack_queues:
                    self.ack(tag)
            finally:
                self.qos.claimed.discard(tag)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
        """Consume from a queue, from the next poll on."""
        (self._no_ack_queues.add if no_ack else self._no_ack_queues.discard)(queue)
        consuming = super().basic_consume(queue, no_ack, *args, **kwargs)
        self.fetcher.queues_added()
        return consuming

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """Return the queue's next message, or None."""
        if not self.ack_emulation:
            return super().basic_get(queue, no_ack, **kwargs)
        with self.conn_or_acquire() as client:
            self._maybe_update_queues_expire(client, queue)
        while True:
            arguments = self.keys.claim_arguments((queue,), 1, time.time(), [], put_back=True)
            claimed, refused = self.plain_client.eval(source("claim_and_ack"), *arguments)
            self.deliver((queue,), [], refused)
            for _, raw, tag in _triples(claimed):
                message = self._message(queue, raw, bytes_to_str(tag))
                if message is not None:
                    return self._got(message, bytes_to_str(tag), no_ack=no_ack)
            if not claimed and not refused:
                return None

    # -- acknowledging

    def ack(self, tag: str) -> None:
        """Acknowledge a message: now, with the next poll, or after a reconnect."""
        self.pending_acks.acknowledge(tag)
        if self.closed:
            # The process's next channel to this broker sends it.
            return
        if self.connection.cycle.hub is None or not self.fetcher.is_open:
            self.flush_acks()
        elif threading.get_ident() != self._consuming_thread:
            self.poll_soon()

    def flush_acks(self) -> None:
        """Send all acknowledgements and wait until Redis has confirmed them."""
        while tags := self.pending_acks.take_acknowledged():
            try:
                with self.plain_client.pipeline() as pipe:
                    pipe.zrem(self.keys.index, *tags).hdel(self.keys.unacked, *tags).execute()
            except BaseException:
                self.pending_acks.acknowledged.update(tags)
                raise

    def close(self) -> None:
        """Stop consuming, send acknowledgements, requeue unacknowledged messages, disconnect."""
        if not self.closed:
            try:
                if self.fetcher.is_open:
                    self.fetcher.leave(tuple(self.active_queues), LEAVE_SECONDS)
                self.fetcher.abandon()
                self.flush_acks()
            except BROKEN as error:
                logger.debug("Redis is away: acknowledged after the next connect (%r)", error)
            self.fetcher.abandon()
        super().close()

    # -- connections

    @property
    def plain_client(self) -> Any:
        """A client without key prefix, for blocking commands."""
        return self._clients()[1]

    @contextlib.contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield the client for kombu's own commands: one for all, not a new one for each."""
        yield client or self._clients()[2]

    def new_connection(self) -> Any:
        """Return a new connection outside of the pools; not open yet."""
        options = self._connparams()
        options.pop("max_connections", None)
        return options.pop("connection_class")(**options)

    def _clients(self) -> tuple[Any, Any, Any]:
        pool = self.pool
        if self._client_of_pool[0] is not pool:
            plain = redis.Redis(connection_pool=pool)
            self._client_of_pool = (pool, plain, self._create_client())
        return self._client_of_pool

    def _after_fork(self) -> None:
        self.fetcher.forget()
        super()._after_fork()  # type: ignore[misc]

    # -- one message

    def _message(self, queue: str, raw: bytes, tag: str) -> Any:
        try:
            return self.Message(_decoded(raw, tag), channel=self)
        except Exception as error:  # noqa: BLE001 - any fault of the message
            self._refuse(queue, raw, f"{type(error).__name__}: {error}", tag)
            return None

    def _got(self, message: Any, tag: str, *, no_ack: bool) -> Any:
        if no_ack:
            self.ack(tag)
        else:
            virtual.QoS.append(self.qos, message, tag)
        return message

    def _refuse(self, queue: str, raw: bytes, reason: str, tag: str | None = None) -> None:
        """Announce an undecodable message; with a tag if it is still claimed."""
        key = self.keys.undecodable
        if tag is not None:
            with self.plain_client.pipeline() as pipe:
                pipe.zrem(self.keys.index, tag).hdel(self.keys.unacked, tag)
                pipe.lpush(key, raw).ltrim(key, 0, self.undecodable_limit - 1).execute()
            if tag in self.qos._delivered:  # noqa: SLF001
                virtual.QoS.ack(self.qos, tag)
        if announce(self, queue, raw, reason):
            self.plain_client.lrem(key, 1, raw)

    # -- hooks of kombu's channel

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        cancelled = super()._basic_cancel(consumer_tag)  # type: ignore[misc]
        if queue is not None and self.fetcher.is_open and queue not in self.active_queues:
            self.fetcher.leave((queue,), LEAVE_SECONDS)
        return cancelled

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (*BROKEN, Empty):
            raise
        except Exception:
            logger.exception("A message for a consumer without acknowledgements cannot be read")
            raise Empty from None

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)  # type: ignore[misc]
        except (*BROKEN, Empty):
            raise
        except Exception:
            logger.exception("A broadcast message cannot be read")
            raise Empty from None


def _may_be_typed(raw: bytes) -> bool:
    """Return whether JSON may contain kombu's typed values, whose hook costs a call per object."""
    return b"__type__" in raw or b"\\u005f" in raw


def _plain(raw: bytes) -> Any:
    """Decode JSON without typed values; by orjson, which needs less memory, where results agree."""
    if _BIG_NUMBER not in raw.translate(_DIGITS_AS_ZEROS):
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(raw)
    return json.loads(raw.decode())


def _triples(flat: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(*[iter(flat)] * 3, strict=True)


def _decoded(raw: bytes, tag: str) -> Any:
    message = loads(raw.decode()) if _may_be_typed(raw) else _plain(raw)
    if message["properties"]["delivery_tag"] != tag:
        raise ValueError(f"its delivery tag is ambiguous: {tag}")
    return message
