"""One pub/sub connection that many parts of a process listen on.

Messages are hints, never the truth: after every gap (a reconnect) each listener is told to
look at the record again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import hiredis

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.wire import RETRY_SECONDS, Endpoint, ReplyError, Wire

logger = logging.getLogger(__name__)

Listener = Callable[[bytes | None], None]
"""Takes a message, or None: messages may have been missed, look at the record."""


class Channels:
    """Subscriptions of one process, multiplexed over one connection that heals itself.

    `timeout` bounds in seconds how long `listen` waits and a silent connection is trusted.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, name: str = "skillfleet") -> None:
        self._endpoint = Endpoint(url, timeout)
        self._timeout = timeout
        self._name = name
        self._listeners: dict[bytes, list[Listener]] = {}
        self._confirmed: dict[bytes, asyncio.Event] = {}
        self._wire: _ChannelWire | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def listen(self, channel: str, listener: Listener) -> None:
        """Call `listener` for each message from now on; returns when Redis has confirmed.

        A listener must not raise and must not block. Raises FleetUnavailableError after the
        timeout; the listener is then forgotten.
        """
        name = channel.encode()
        self._listeners.setdefault(name, []).append(listener)
        if name not in self._confirmed:
            self._confirmed[name] = asyncio.Event()
            self._send(b"SUBSCRIBE", name)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        try:
            async with asyncio.timeout(self._timeout):
                await self._confirmed[name].wait()
        except BaseException as error:
            await self.forget(channel, listener)
            if isinstance(error, TimeoutError):
                where, patience = self._endpoint.address, self._timeout
                message = f"Redis at {where} did not confirm a subscription within {patience:g} s"
                raise FleetUnavailableError(message) from None
            raise

    async def forget(self, channel: str, listener: Listener) -> None:
        """Stop calling `listener`; never fails."""
        name = channel.encode()
        listeners = self._listeners.get(name, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners and self._listeners.pop(name, None) is not None:
            self._confirmed.pop(name)
            self._send(b"UNSUBSCRIBE", name)

    async def close(self) -> None:
        """Stop listening and close the connection."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._listeners.clear()
        self._confirmed.clear()

    def _send(self, *command: Any) -> None:
        if self._wire is not None:
            self._wire.write(hiredis.pack_command(command))

    async def _keep(self) -> None:
        """Hold a connection for as long as this object lives."""
        while True:
            try:
                wire = await self._endpoint.open(_ChannelWire, self)
            except (OSError, ValueError) as error:
                logger.debug("no channels from Redis at %s: %s", self._endpoint.address, error)
            else:
                await self._hold(wire)
            await asyncio.sleep(RETRY_SECONDS)

    async def _hold(self, wire: "_ChannelWire") -> None:
        """Subscribe to everything and watch the connection until it is lost."""
        try:
            commands = self._endpoint.handshake(f"{self._name}-channels")
            if self._listeners:
                commands.append((b"SUBSCRIBE", *self._listeners))
            wire.write(b"".join(hiredis.pack_command(command) for command in commands))
            self._wire = wire
            while await wire.pulse(self._timeout):
                pass
            logger.warning("lost the channels at %s: %s", self._endpoint.address, wire.why)
        finally:
            self._wire = None
            wire.abort()

    def dispatch(self, kind: bytes, name: bytes, data: Any) -> None:
        """Hand one message of Redis to whom it concerns."""
        listeners = tuple(self._listeners.get(name, ()))
        if kind == b"message":
            for listener in listeners:
                listener(data)
        elif kind == b"subscribe" and name in self._confirmed:
            again = self._confirmed[name].is_set()
            self._confirmed[name].set()
            for listener in listeners if again else ():
                listener(None)


class _ChannelWire(Wire):
    """Hands messages to the channels and knows whether it was heard lately."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.why = "silence"
        self._channels = channels
        self._heard = False

    def on_reply(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, ReplyError):
            self.why = str(reply)
            self.abort()
        elif isinstance(reply, list) and len(reply) == 3:  # noqa: PLR2004 - kind, channel, data
            self._channels.dispatch(*reply)

    def on_lost(self, error: ConnectionError) -> None:
        if self.why == "silence":
            self.why = str(error)

    async def pulse(self, seconds: float) -> bool:
        """Ask for a sign of life; False when none came for `seconds` or the connection broke."""
        self._heard = False
        self.write(hiredis.pack_command((b"PING",)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()
                return False
        return self._heard
