"""One connection to Redis that pipelines by itself.

All commands issued in one turn of the event loop leave in one write, neighbouring calls of one
script as one command, and replies are matched in order. A busy process makes one system call for
many commands, and no caller waits for a connection out of a pool. Blocking commands and SUBSCRIBE
do not belong here.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Protocol, TypeVar

from skillfleet_ledger.redis_client.batches import Batch, Sent, Waiter, in_batches
from skillfleet_ledger.redis_client.loops import LoopOwner
from skillfleet_ledger.redis_client.protocol import (
    RETRY_SECONDS,
    Endpoint,
    RespProtocol,
    closed_error,
    packed,
    pause_after,
)
from skillfleet_ledger.redis_client.replies import RefusedError, ReplyError

__all__ = ["RETRY_SECONDS", "PipelinedConnection", "RefusedError", "ReplyError"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Connection(Protocol):
    """The methods that the ledger uses of a connection; `PipelinedConnection` documents them."""

    @property
    def address(self) -> str:
        """The server's address."""

    def call(self, *command: Any) -> Awaitable[Any]:
        """Send a command, once."""

    async def execute(self, *command: Any, timeout: float | None = None) -> Any:
        """Send a command that may be repeated without harm."""

    async def execute_all(
        self, *commands: tuple[Any, ...], timeout: float | None = None
    ) -> list[Any]:
        """Send several commands together, in one round trip; errors as `execute`."""

    async def single_flight(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do the work once for all concurrent callers."""


class PipelinedConnection:
    """A self-connecting, self-pipelining Redis connection for one event loop.

    `url` is a redis://, rediss:// or unix:// URL. `timeout` bounds in seconds how long a
    command may wait for its reply, connecting included. A `patient` connection waits as long
    for a right or a password that it lacks. Another loop than the `owner`'s is refused.
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
        self._unsent: list[Sent] = []
        self._protocol: _CommandProtocol | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flush_due = False
        self._closed = False
        self._shared: dict[Hashable, asyncio.Future[Any]] = {}

    def call(self, *command: Any) -> "asyncio.Future[Any]":
        """Send a command; the future holds its reply (bytes, int, list or None).

        It fails with ReplyError, or with ConnectionError when the connection breaks before the
        reply: whether the command was carried out is then unknown. Raises WrongLoopError.
        """
        loop = self._enter()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            future.set_exception(closed_error())
            return future
        self._unsent.append((command, future))
        if self._flush_due:
            return future
        if self._protocol is not None and self._protocol.idle:
            self._flush()
        else:
            # Commands issued while replies are due leave in one write.
            self._flush_due = True
            loop.call_soon(self._flush)
        return future

    async def execute(self, *command: Any, timeout: float | None = None) -> Any:
        """Send a command that may be repeated without harm and return its reply.

        Repeats it on a broken connection, and while Redis is full, loads its data or fails over,
        until `timeout` seconds (default: the connection's) are over; raises FleetUnavailableError
        then, and at once where user, password or database are refused. ReplyError is an error of
        the command or script itself. Without `timeout`, a server that answers other commands first
        may take longer.
        """
        limit = patience = self._timeout if timeout is None else timeout
        cause: Exception | None = None
        if timeout is None and self._protocol is not None and not self._protocol.lost:
            # An open connection is closed after the same time of silence.
            began = asyncio.get_running_loop().time()
            try:
                return await self.call(*command)
            except (ReplyError, OSError) as error:
                self._judge(error)
                cause = error
            patience -= asyncio.get_running_loop().time() - began
        return await self._repeat(command, patience, limit, cause)

    async def execute_all(
        self, *commands: tuple[Any, ...], timeout: float | None = None
    ) -> list[Any]:
        """Send several commands in one write and return their replies; see `execute`."""
        return await asyncio.gather(*(self.execute(*each, timeout=timeout) for each in commands))

    async def _repeat(
        self, command: tuple[Any, ...], patience: float, limit: float, cause: Exception | None
    ) -> Any:
        """Repeat the command; `patience` is the rest of the `limit`, in seconds."""
        try:
            async with asyncio.timeout(patience):
                while True:
                    if cause is not None:
                        await asyncio.sleep(pause_after(cause))
                    try:
                        return await self.call(*command)
                    except (ReplyError, OSError) as error:
                        self._judge(error)
                        cause = error
        except TimeoutError:
            raise self._endpoint.unavailable(limit, cause) from cause

    async def single_flight(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do the work called `name` once for all concurrent callers."""
        self._enter()
        if name not in self._shared:
            self._shared[name] = asyncio.ensure_future(work())
            self._shared[name].add_done_callback(lambda _: self._shared.pop(name))
        result: T = await asyncio.shield(self._shared[name])
        return result

    @property
    def address(self) -> str:
        """The server's address, without credentials."""
        return str(self._endpoint.address)

    async def close(self) -> None:
        """Send pending commands, then close; missing replies fail. Raises WrongLoopError."""
        if not self._leave():
            return
        if self._protocol is not None and self._unsent:
            self._flush()
        connecting, protocol, self._protocol = self._connecting, self._protocol, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        if protocol is not None:
            await protocol.close()
        self._fail_unsent(ConnectionError("the connection was closed"))

    def abort(self) -> None:
        """Close at once; pending commands may be lost, and missing replies fail."""
        if not self._leave():
            return
        if self._connecting is not None:
            self._connecting.cancel()
        if self._protocol is not None:
            self._protocol.abort()
        self._fail_unsent(ConnectionError("the connection was closed"))

    def _enter(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which is the owner's; drop the state of an older one."""
        loop = self._owner.enter()
        if loop is not self._loop:
            self._loop, self._protocol, self._connecting = loop, None, None
            self._unsent, self._shared, self._flush_due = [], {}, False
        return loop

    def _leave(self) -> bool:
        """Accept no more commands; True when there is a loop on which something may be open."""
        if self._loop is not None:
            self._enter()
        self._closed = True
        return self._loop is not None

    def _judge(self, error: Exception) -> None:
        """Return if the command may be repeated, else raise the error for the caller."""
        if self._closed and isinstance(error, OSError):
            raise closed_error() from error
        self._endpoint.judge(error)
        if isinstance(error, ReplyError) and error.stale and self._protocol is not None:
            self._protocol.abort()

    def _flush(self) -> None:
        self._flush_due = False
        if not self._unsent:
            return
        if self._protocol is None or self._protocol.lost:
            if self._connecting is None and not self._closed:
                self._connecting = asyncio.ensure_future(self._connect())
            return
        unsent, self._unsent = self._unsent, []
        self._protocol.send(unsent)

    async def _connect(self) -> None:
        try:
            self._protocol = await self._open()
        except Exception as error:  # noqa: BLE001 - no caller may wait forever
            logger.debug("cannot connect to Redis at %s: %s", self.address, error)
            self._fail_unsent(self._endpoint.unconnected(error))
        finally:
            self._connecting = None
        self._flush()

    async def _open(self) -> "_CommandProtocol":
        protocol = await self._endpoint.open(_CommandProtocol, self._timeout)
        loop = asyncio.get_running_loop()
        try:
            for command in self._endpoint.handshake(self._name):
                reply = loop.create_future()
                protocol.send([(command, reply)])
                await reply
        except BaseException:
            protocol.abort()
            raise
        return protocol

    def _fail_unsent(self, error: Exception) -> None:
        unsent, self._unsent = self._unsent, []
        for _, future in unsent:
            if not future.done():
                future.set_exception(error)


class _CommandProtocol(RespProtocol):
    """The protocol of one connection: commands out, replies in, matched in order."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        self._awaited: deque[Waiter] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._last_reply_at = 0.0

    @property
    def idle(self) -> bool:
        """True when the connection is open and no reply is due."""
        return not self.lost and not self._awaited

    def send(self, commands: list[Sent]) -> None:
        """Write the commands at once and await their replies; skip those already cancelled."""
        pieces = []
        idle = not self._awaited
        left = deque(in_batches(commands, self.send))
        while left:
            command, future = left.popleft()
            if future.done():
                continue
            try:
                pieces.append(packed(command))
            except (TypeError, ValueError) as error:
                # An invalid command must not stop the others.
                if isinstance(future, Batch):
                    left.extendleft(reversed(future.calls))
                else:
                    future.set_exception(error)
                continue
            self._awaited.append(future)
        if not pieces:
            return
        self.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        loop = asyncio.get_running_loop()
        if idle:
            self._last_reply_at = loop.time()
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._check_silence)

    def data_received(self, data: bytes) -> None:
        self._last_reply_at = asyncio.get_running_loop().time()
        super().data_received(data)

    def on_reply(self, reply: Any) -> None:
        if not self._awaited:
            # Not a reply: Redis refuses the connection before it reads the first command.
            self.abort()
            return
        future = self._awaited.popleft()
        if future.done():
            return
        if isinstance(reply, ReplyError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def on_lost(self, error: ConnectionError) -> None:
        if self._watch is not None:
            self._watch.cancel()
        awaited, self._awaited = self._awaited, deque()
        for future in awaited:
            if not future.done():
                future.set_exception(error)

    def _check_silence(self) -> None:
        """Close a half-open connection: replies are due and none came within the timeout."""
        self._watch = None
        if not self._awaited:
            return
        loop = asyncio.get_running_loop()
        silent = loop.time() - self._last_reply_at
        if silent < self._timeout:
            self._watch = loop.call_later(self._timeout - silent, self._check_silence)
        else:
            self.abort()
