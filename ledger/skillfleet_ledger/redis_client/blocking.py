"""Commands to Redis from code that no event loop runs: a request and its reply, in this thread.

A synchronous producer pays two thread switches and an event loop's turn for each call that a loop
in another thread makes for it: three times the processor time of the call itself.
"""

import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, TypeVar

import hiredis

from skillfleet.errors import FleetClosedError
from skillfleet_ledger.redis_client.protocol import Endpoint, packed, pause_after
from skillfleet_ledger.redis_client.replies import ReplyError

T = TypeVar("T")
_PIECE = 65_536


def completed(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits nothing but blocking connections; any thread."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("this work needs an event loop")


class BlockingConnection:
    """Stands in for a PipelinedConnection; its coroutines block, and never suspend.

    Any thread may use it, and a forked child: each call takes an idle socket or opens one.
    `url` and `timeout` (seconds) as for PipelinedConnection.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, name: str = "skillfleet") -> None:
        self._endpoint = Endpoint(url, timeout)
        self._timeout = timeout
        self._name = name
        self._idle: list[_Line] = []
        self._pid = os.getpid()
        self._closed = False

    @property
    def address(self) -> str:
        """Where the server is, without credentials."""
        return str(self._endpoint.address)

    async def call(self, *command: Any) -> Any:
        """Send a command and return its reply; raises ReplyError and OSError."""
        return self._ask(command, time.monotonic() + self._timeout)

    async def execute(self, *command: Any, timeout: float | None = None) -> Any:
        """As PipelinedConnection.execute."""
        return self._repeat(command, self._timeout if timeout is None else timeout)

    async def once(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work: a thread that blocks has nobody to share it with."""
        del name
        return await work()

    async def close(self) -> None:
        """Close the connection; what is being asked may still end, later calls fail."""
        self._closed = True
        self._close_idle()

    def _repeat(self, command: tuple[Any, ...], limit: float) -> Any:
        give_up_at = time.monotonic() + limit
        tries = 0
        while True:
            try:
                return self._ask(command, give_up_at)
            except (ReplyError, OSError) as error:
                self._endpoint.judge(error)
                cause = error
            tries += 1
            # An idle socket that the server has closed tells so at its next use: try again at once.
            pause = pause_after(cause) if tries > 1 or isinstance(cause, ReplyError) else 0.0
            if time.monotonic() + pause >= give_up_at:
                raise self._endpoint.unavailable(limit, cause) from cause
            time.sleep(pause)

    def _ask(self, command: tuple[Any, ...], until: float) -> Any:
        """`until` is when the reply must be there, connecting included, by `time.monotonic`."""
        line = self._take(until)
        try:
            reply = line.ask(command, until)
        except BaseException:
            # A reply may still come, which is nobody's; and what idles broke with it, most likely.
            line.close()
            self._close_idle()
            raise
        if isinstance(reply, ReplyError) and reply.stale:
            line.close()
        else:
            self._keep(line)
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def _keep(self, line: "_Line") -> None:
        self._idle.append(line)
        if self._closed:
            self._close_idle()

    def _take(self, until: float) -> "_Line":
        if self._closed:
            raise FleetClosedError("this connection of the fleet was closed: make a new fleet")
        if self._pid != os.getpid():
            # The parent's: here only the copies of their descriptors are closed.
            self._close_idle()
            self._pid = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._open(until)

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _open(self, until: float) -> "_Line":
        try:
            line = _Line(self._endpoint.connect(_left(until)))
            try:
                self._introduce(line, until)
            except BaseException:
                line.close()
                raise
        except (ReplyError, OSError) as error:
            raise self._endpoint.unconnected(error) from error
        return line

    def _introduce(self, line: "_Line", until: float) -> None:
        for command in self._endpoint.handshake(self._name):
            reply = line.ask(command, until)
            if isinstance(reply, ReplyError):
                raise reply


class _Line:
    """One socket; one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = hiredis.Reader(replyError=ReplyError)

    def ask(self, command: tuple[Any, ...], until: float) -> Any:
        """The reply, which may be a ReplyError; raises OSError, also when it is late."""
        request = packed(command)
        self._socket.settimeout(_left(until))
        self._socket.sendall(request)
        # What is short was sent at once, and its reply comes in one piece: almost always.
        some_time_passed = len(request) > _PIECE
        try:
            while (reply := self._reader.gets()) is False:
                if some_time_passed:
                    self._socket.settimeout(_left(until))
                data = self._socket.recv(_PIECE)
                if not data:
                    raise ConnectionError("connection to Redis lost: closed")
                self._reader.feed(data)
                some_time_passed = True
        except hiredis.ProtocolError as error:
            raise ConnectionError("what answers there is no Redis") from error
        return reply

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _left(until: float) -> float:
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
