"""The pub/sub connection of a process, shared by all listeners.

Messages are only hints: after each gap (a reconnect) all listeners are notified to read the record
again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.redis_client.loops import LoopOwner
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_ledger.redis_client.protocol import (
    RETRY_SECONDS,
    Endpoint,
    RespProtocol,
    closed_error,
    packed,
    pause_after,
)
from skillfleet_ledger.redis_client.replies import ReplyError

logger = logging.getLogger(__name__)

Listener = Callable[[bytes | None], None]
"""Takes a message, or None when messages may have been missed: read the record then."""


class PubSub:
    """Subscriptions of one process over one connection, which reconnects by itself.

    `timeout` (seconds) bounds how long `listen` waits, and how long a connection may be silent.
    `patient` and `owner` as for PipelinedConnection.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        name: str = "skillfleet",
        patient: bool = False,
        owner: LoopOwner | None = None,
    ) -> None:
        self._endpoint = Endpoint(url, timeout, patient=patient)
        self._timeout = timeout
        self._name = name
        self._owner = owner or LoopOwner()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[bytes, list[Listener]] = {}
        self._confirmed: dict[bytes, asyncio.Future[None]] = {}
        self._protocol: _PubSubProtocol | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None
        self._closed = False
        where = self._endpoint.address
        self._outage = Outage(logger, f"receiving no pub/sub messages from Redis at {where}")

    async def listen(self, channel: str, listener: Listener) -> None:
        """Call `listener` for each message from now on; returns when Redis has confirmed.

        A listener must not raise and must not block. Raises FleetUnavailableError after the
        timeout, at once where Redis refuses user, password or channel; the listener is then
        removed. Raises WrongLoopError and FleetClosedError.
        """
        loop = self._enter()
        if self._closed:
            raise closed_error()
        name = channel.encode()
        self._listeners.setdefault(name, []).append(listener)
        if name not in self._confirmed:
            self._confirmed[name] = loop.create_future()
            self._send(b"SUBSCRIBE", name)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._confirmed[name])
        except BaseException as error:
            await self.forget(channel, listener)
            if isinstance(error, TimeoutError) and not isinstance(error, FleetUnavailableError):
                raise self._unconfirmed() from self._trouble
            raise

    async def forget(self, channel: str, listener: Listener) -> None:
        """Stop calling `listener`; never fails."""
        name = channel.encode()
        listeners = self._listeners.get(name, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners and self._listeners.pop(name, None) is not None:
            self._confirmed.pop(name).cancel()
            self._send(b"UNSUBSCRIBE", name)

    async def close(self) -> None:
        """Stop listening and close the connection; listeners are notified to read the record."""
        if self._loop is not None:
            self._enter()
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._fail(closed_error())
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener(None)

    def _enter(self) -> asyncio.AbstractEventLoop:
        loop = self._owner.enter()
        if loop is not self._loop:
            self._loop, self._protocol, self._keeper = loop, None, None
            self._listeners, self._confirmed = {}, {}
        return loop

    def _unconfirmed(self) -> FleetUnavailableError:
        where, reason = self._endpoint.address, f": {self._trouble}" if self._trouble else ""
        return FleetUnavailableError(
            f"Redis at {where} did not confirm a subscription within {self._timeout:g} s{reason}"
        )

    def _send(self, *command: Any) -> None:
        if self._protocol is not None:
            self._protocol.write(packed(command))

    async def _keep(self) -> None:
        """Keep a connection open for as long as this object lives."""
        while True:
            try:
                protocol = await self._endpoint.open(_PubSubProtocol, self)
            except (OSError, ValueError) as error:
                self._failed(self._endpoint.unconnected(error))
            else:
                await self._hold(protocol)
            await asyncio.sleep(pause_after(self._trouble) if self._trouble else RETRY_SECONDS)

    async def _hold(self, protocol: "_PubSubProtocol") -> None:
        """Subscribe to everything and watch the connection until it is lost."""
        try:
            commands = self._endpoint.handshake(f"{self._name}-pubsub")
            if self._listeners:
                commands.append((b"SUBSCRIBE", *self._listeners))
            protocol.write(b"".join(packed(command) for command in commands))
            self._protocol = protocol
            while await protocol.pulse(self._timeout):
                self._outage.end()
                self._trouble = None
            why = protocol.why
            self._failed(why if isinstance(why, OSError) else self._endpoint.unconnected(why))
        finally:
            self._protocol = None
            protocol.abort()

    def _failed(self, error: Exception) -> None:
        """Record why there is no connection; report permanent errors at once."""
        self._trouble = error
        self._outage.begin(error)
        if isinstance(error, FleetUnavailableError):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Fail callers that wait for a confirmation."""
        for confirmed in self._confirmed.values():
            if not confirmed.done():
                confirmed.set_exception(error)
                # The waiting caller may have been cancelled: mark the exception as retrieved.
                confirmed.exception()

    def dispatch(self, kind: bytes, name: bytes, data: Any) -> None:
        """Pass one message of Redis to its listeners."""
        listeners = tuple(self._listeners.get(name, ()))
        if kind == b"message":
            for listener in listeners:
                listener(data)
        elif kind == b"subscribe" and name in self._confirmed:
            self._outage.end()
            again = self._confirmed[name].done()
            if not again:
                self._confirmed[name].set_result(None)
            for listener in listeners if again else ():
                listener(None)


_SILENCE = ConnectionError("silence")


class _PubSubProtocol(RespProtocol):
    """The protocol that passes messages to listeners and records recent traffic."""

    def __init__(self, pubsub: PubSub) -> None:
        super().__init__()
        self.why: Exception = _SILENCE
        self._pubsub = pubsub
        self._received = False

    def on_reply(self, reply: Any) -> None:
        self._received = True
        if isinstance(reply, ReplyError) and reply.for_all:
            # A server that cannot save answers PING with an error, but still delivers messages.
            return
        if isinstance(reply, ReplyError):
            self.why = reply
            self.abort()
        elif isinstance(reply, list) and len(reply) == 3:  # noqa: PLR2004 - kind, channel, data
            self._pubsub.dispatch(*reply)

    def on_lost(self, error: ConnectionError) -> None:
        if self.why is _SILENCE:
            self.why = error

    async def pulse(self, seconds: float) -> bool:
        """Send a PING; False when nothing came within `seconds` or the connection broke."""
        self._received = False
        self.write(packed((b"PING",)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()
                return False
        return self._received
