"""kombu's Redis channel with another way of getting messages and of settling them."""

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

from skillfleet_engine.transport.fetcher import Intake
from skillfleet_engine.transport.keys import Keys
from skillfleet_engine.transport.pending_acks import Unsettled, unsettled_with
from skillfleet_engine.transport.qos import QoS
from skillfleet_engine.transport.redis_socket import BROKEN
from skillfleet_engine.transport.scripts import source
from skillfleet_engine.transport.slots import free_places
from skillfleet_engine.transport.undecodable import announce

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 100
_JSON = "application/json"
# Beyond 64 bits orjson reads a float. A regular expression takes ten times as long to find one.
_BIG_NUMBER = b"0" * 19
_DIGITS_AS_ZEROS = bytes(0x30 if byte in b"0123456789" else byte for byte in range(256))
LEAVE_SECONDS = 5.0


class Message(virtual.Message):
    """kombu's message; one that holds plain JSON is decoded without asking for typed values."""

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
            raise DecodeError(f"the body is no JSON: {error}") from error


class Channel(stock.Channel):
    """The same lists, hashes and bindings as kombu's; intake.py says what is different.

    Transport options beside kombu's: `doorbell_seconds` (how long an idle worker waits before
    it looks by itself), `undecodable_key`, `undecodable_limit`, `max_message_bytes` (larger ones
    count as undecodable, and never leave the server; 0: no limit).
    """

    QoS = QoS
    Message = Message
    doorbell_seconds = 5.0
    undecodable_key = "undecodable"
    undecodable_limit = 1000
    max_message_bytes = 0
    from_transport_options = (
        *stock.Channel.from_transport_options,
        "doorbell_seconds",
        "undecodable_key",
        "undecodable_limit",
        "max_message_bytes",
    )

    # What kombu's channel has, and its stubs do not tell.
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
        self.intake = Intake(self, poller.watch, poller.unwatch)
        broker = (info.hostname, info.port, info.virtual_host, self.keys.unacked)
        self.unsettled: Unsettled = unsettled_with(broker)

    # -- consuming

    @property
    def claims(self) -> bool:
        """True when messages are claimed; consumers that do not acknowledge use kombu's way."""
        return bool(self.ack_emulation) and any(
            queue not in self._no_ack_queues for queue in self.active_queues
        )

    def queues_in_turn(self) -> tuple[str, ...]:
        """The queues to claim from, the one whose turn it is first."""
        return tuple(self._queue_cycle.consume(len(self.active_queues))) if self.claims else ()

    def turn(self) -> None:
        """Send what is due: acknowledgements, claims, waits."""
        if self.closed:
            return
        claims = self.claims
        if claims or self.intake.is_open:
            self._consuming_thread = threading.get_ident()
            # Outside of an event hub one message is asked for at a time, as kombu does.
            most = MOST_AT_ONCE if self.connection.cycle.hub is not None else 1
            self.intake.turn(free_places(self, most) if claims else 0)

    def turn_soon(self) -> None:
        """Have the event hub, where there is one, take another turn; from another thread."""
        hub = self.connection.cycle.hub
        if hub is not None:
            hub.call_soon(self.turn)

    def turn_after_coroutines(self) -> bool:
        """Take another turn when coroutines have had theirs; False where no event loop hosts them.

        kombu's own hub polls after its ticks whatever these ask it to call: for up to a second.
        """
        hub = self.connection.cycle.hub
        hosted = hub is not None and getattr(hub.poller, "wakes_for_ticks", False)
        if hosted:
            hub.call_soon(self.turn)
        return hosted

    def hand_over(self, queues: tuple[str, ...], claimed: list[Any], refused: list[Any]) -> None:
        """Deliver what a claim brought from `queues`; both lists as the script returns them."""
        for position, raw, reason in _triples(refused):
            self._refuse(queues[(position - 1) % len(queues)], raw, bytes_to_str(reason))
        for position, raw, tag in _triples(claimed):
            queue = queues[(position - 1) % len(queues)]
            self._queue_cycle.rotate(queue)
            self._hand_over_one(queue, raw, bytes_to_str(tag))

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
        """Consume from a queue from the next turn on."""
        (self._no_ack_queues.add if no_ack else self._no_ack_queues.discard)(queue)
        consuming = super().basic_consume(queue, no_ack, *args, **kwargs)
        self.intake.queues_added()
        return consuming

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """The queue's next message, or None."""
        if not self.ack_emulation:
            return super().basic_get(queue, no_ack, **kwargs)
        with self.conn_or_acquire() as client:
            self._maybe_update_queues_expire(client, queue)
        while True:
            arguments = self.keys.turn((queue,), 1, time.time(), [], put_back=True)
            claimed, refused = self.plain_client.eval(source("claim_and_ack"), *arguments)
            self.hand_over((queue,), [], refused)
            for _, raw, tag in _triples(claimed):
                message = self._message(queue, raw, bytes_to_str(tag))
                if message is not None:
                    return self._got(message, bytes_to_str(tag), no_ack=no_ack)
            if not claimed and not refused:
                return None

    # -- settling

    def settle(self, tag: str) -> None:
        """A message is done with: it leaves the record, at the latest after a reconnect."""
        self.unsettled.acknowledge(tag)
        if self.closed:
            # The process's next channel to this broker sends it.
            return
        if self.connection.cycle.hub is None or not self.intake.is_open:
            self.settle_now()
        elif threading.get_ident() != self._consuming_thread:
            self.turn_soon()

    def settle_now(self) -> None:
        """Send what was settled and wait until Redis has done it."""
        while tags := self.unsettled.take_acknowledged():
            try:
                with self.plain_client.pipeline() as pipe:
                    pipe.zrem(self.keys.index, *tags).hdel(self.keys.unacked, *tags).execute()
            except BaseException:
                self.unsettled.acknowledged.update(tags)
                raise

    def close(self) -> None:
        """Stop consuming, settle, put back what is unacknowledged, and disconnect."""
        if not self.closed:
            try:
                if self.intake.is_open:
                    self.intake.leave(tuple(self.active_queues), LEAVE_SECONDS)
                self.intake.abandon()
                self.settle_now()
            except BROKEN as error:
                logger.debug("Redis is away: settled after the next connect (%r)", error)
            self.intake.abandon()
        super().close()

    # -- connections

    @property
    def plain_client(self) -> Any:
        """A client without key prefix, for commands that are waited for."""
        return self._clients()[1]

    @contextlib.contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The client for kombu's own commands: one for all, not a new one for each."""
        yield client or self._clients()[2]

    def new_connection(self) -> Any:
        """A connection of its own, apart from the pools; not open yet."""
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
        self.intake.forget()
        super()._after_fork()  # type: ignore[misc]

    # -- one message

    def _hand_over_one(self, queue: str, raw: bytes, tag: str) -> None:
        self.qos.claimed.add(tag)
        try:
            self.connection._deliver(_decoded(raw, tag), queue)  # noqa: SLF001
        except (*BROKEN, MemoryError):
            raise
        except Exception as error:
            # Whatever is wrong with a message must not end the worker, now or at each delivery.
            logger.exception("The message %s cannot be delivered", tag)
            self._refuse(queue, raw, f"{type(error).__name__}: {error}", tag)
        else:
            if queue in self._no_ack_queues:
                self.settle(tag)
        finally:
            self.qos.claimed.discard(tag)

    def _message(self, queue: str, raw: bytes, tag: str) -> Any:
        try:
            return self.Message(_decoded(raw, tag), channel=self)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it
            self._refuse(queue, raw, f"{type(error).__name__}: {error}", tag)
            return None

    def _got(self, message: Any, tag: str, *, no_ack: bool) -> Any:
        if no_ack:
            self.settle(tag)
        else:
            virtual.QoS.append(self.qos, message, tag)
        return message

    def _refuse(self, queue: str, raw: bytes, reason: str, tag: str | None = None) -> None:
        """Announce a message that nobody could read; a tag says that it is still claimed."""
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
        if queue is not None and self.intake.is_open and queue not in self.active_queues:
            self.intake.leave((queue,), LEAVE_SECONDS)
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
    """Whether JSON may hold kombu's typed values, whose hook is called for each object."""
    return b"__type__" in raw or b"\\u005f" in raw


def _plain(raw: bytes) -> Any:
    """JSON without typed values, by orjson, which takes less memory, where it reads the same."""
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
