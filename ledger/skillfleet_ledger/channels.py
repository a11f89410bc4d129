"""One pub/sub connection that many parts of a process listen on.

Messages are hints, never the truth: after every gap (a reconnect) each listener is told to
look at the record again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from skillfleet_ledger.connection import RETRY_SECONDS

logger = logging.getLogger(__name__)

Listener = Callable[[bytes | None], None]
"""Takes a message, or None: messages may have been missed, look at the record."""


class Channels:
    """Subscriptions of one process, multiplexed over one connection of `client`."""

    def __init__(self, client: redis_asyncio.Redis) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=False)
        self._listeners: dict[bytes, list[Listener]] = {}
        self._confirmed: dict[bytes, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None

    async def listen(self, channel: str, listener: Listener) -> None:
        """Call `listener` for each message from now on; returns when Redis has confirmed.

        Raises RedisError when it cannot be reached.
        """
        name = channel.encode()
        first = name not in self._listeners
        self._listeners.setdefault(name, []).append(listener)
        if first:
            self._confirmed[name] = asyncio.Event()
            try:
                await self._pubsub.subscribe(name)
            except BaseException:
                await self.forget(channel, listener)
                raise
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        await self._confirmed[name].wait()

    async def forget(self, channel: str, listener: Listener) -> None:
        """Stop calling `listener`; never fails."""
        name = channel.encode()
        listeners = self._listeners.get(name, [])
        if listener in listeners:
            listeners.remove(listener)
        if listeners:
            return
        self._listeners.pop(name, None)
        self._confirmed.pop(name, None)
        with contextlib.suppress(RedisError, OSError):
            await self._pubsub.unsubscribe(name)

    async def close(self) -> None:
        """Stop reading and close the connection."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        with contextlib.suppress(RedisError, OSError):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _read(self) -> None:
        while True:
            try:
                message = await self._pubsub.get_message(timeout=30.0)
            except (RedisError, OSError) as error:
                logger.warning("lost the channel connection to Redis: %s", error)
                await self._reconnect()
                continue
            if message is not None:
                self._dispatch(message)

    def _dispatch(self, message: dict[str, object]) -> None:
        channel = message["channel"]
        if not isinstance(channel, bytes):
            return
        if message["type"] == "subscribe" and channel in self._confirmed:
            self._confirmed[channel].set()
        elif message["type"] == "message":
            data = message["data"]
            for listener in tuple(self._listeners.get(channel, ())):
                listener(data if isinstance(data, bytes) else None)

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._pubsub.connect()  # type: ignore[no-untyped-call]
                await self._pubsub.ping()
            except (RedisError, OSError):
                continue
            break
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener(None)
