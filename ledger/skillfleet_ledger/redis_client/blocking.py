"""A blocking Redis connection: sends a request and reads its reply in the calling thread.

A call through an event loop in another thread costs two thread switches and a turn of that loop:
three times the processor time of the call itself.
"""

import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar

import hiredis

from skillfleet_ledger.redis_client.protocol import Endpoint, closed_error, packed, pause_after
from skillfleet_ledger.redis_client.replies import ReplyError

T = TypeVar("T")
_PIECE = 65_536


class BlockingConnection:
    """A blocking substitute for PipelinedConnection: its coroutines block, and never suspend.

    Any thread may use it, and a forked child: each call takes an idle socket or opens one.
    `url` and `timeout` (seconds) as for PipelinedConnection.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, name: str = "skillfleet") -> None:
        self._endpoint = Endpoint(url, timeout)
        self._timeout = timeout
        self._name = name
        self._idle: list[_Socket] = []
        self._pid = os.getpid()
        self._closed = False

    @property
    def address(self) -> str:
        """The server's address, without credentials."""
        return str(self._endpoint.address)

    async def call(self, *command: Any) -> Any:
        """Send a command and return its reply; raises ReplyError and OSError."""
        return self._ask([command], time.monotonic() + self._timeout)[0]

    async def execute(self, *command: Any, timeout: float | None = None) -> Any:
        """Send a command; see `PipelinedConnection.execute`."""
        return (await self.execute_all(command, timeout=timeout))[0]

    async def execute_all(
        self, *commands: tuple[Any, ...], timeout: float | None = None
    ) -> list[Any]:
        """Send several commands; see `PipelinedConnection.execute_all`."""
        return self._repeat(commands, self._timeout if timeout is None else timeout)

    async def single_flight(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work: a blocking caller has no concurrent calls to share it with."""
        del name
        return await work()

    async def close(self) -> None:
        """Close the connection; calls in progress may still end, later ones fail."""
        self._closed = True
        self._close_idle()

    def _repeat(self, commands: Sequence[tuple[Any, ...]], limit: float) -> list[Any]:
        give_up_at = time.monotonic() + limit
        tries = 0
        while True:
            try:
                return self._ask(commands, give_up_at)
            except (ReplyError, OSError) as error:
                self._endpoint.judge(error)
                cause = error
            tries += 1
            # An idle socket that the server has closed fails at its next use: try again at once.
            pause = pause_after(cause) if tries > 1 or isinstance(cause, ReplyError) else 0.0
            if time.monotonic() + pause >= give_up_at:
                raise self._endpoint.unavailable(limit, cause) from cause
            time.sleep(pause)

    def _ask(self, commands: Sequence[tuple[Any, ...]], until: float) -> list[Any]:
        """Return the replies; `until` is the deadline by `time.monotonic`, connecting included."""
        opened = self._take(until)
        try:
            replies = opened.ask(commands, until)
        except BaseException:
            # A late reply would be taken for the next one; idle sockets are probably broken, too.
            opened.close()
            self._close_idle()
            raise
        error = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        if error is not None and error.stale:
            opened.close()
        else:
            self._keep(opened)
        if error is not None:
            raise error
        return replies

    def _keep(self, opened: "_Socket") -> None:
        self._idle.append(opened)
        if self._closed:
            self._close_idle()

    def _take(self, until: float) -> "_Socket":
        if self._closed:
            raise closed_error()
        if self._pid != os.getpid():
            # The sockets belong to the parent: this closes only copies of their descriptors.
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

    def _open(self, until: float) -> "_Socket":
        try:
            opened = _Socket(self._endpoint.connect(_left(until)))
            try:
                self._introduce(opened, until)
            except BaseException:
                opened.close()
                raise
        except (ReplyError, OSError) as error:
            raise self._endpoint.unconnected(error) from error
        return opened

    def _introduce(self, opened: "_Socket", until: float) -> None:
        for command in self._endpoint.handshake(self._name):
            (reply,) = opened.ask([command], until)
            if isinstance(reply, ReplyError):
                raise reply


class _Socket:
    """An open socket, used by one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = hiredis.Reader(replyError=ReplyError)

    def ask(self, commands: Sequence[tuple[Any, ...]], until: float) -> list[Any]:
        """Return the replies, among them ReplyErrors; raises OSError, also for late ones."""
        request = b"".join(packed(command) for command in commands)
        replies: list[Any] = []
        self._socket.settimeout(_left(until))
        self._socket.sendall(request)
        # A short request is sent at once, and its reply usually arrives in one piece.
        some_time_passed = len(request) > _PIECE
        try:
            while len(replies) < len(commands):
                if (reply := self._reader.gets()) is not False:
                    replies.append(reply)
                    continue
                if some_time_passed:
                    self._socket.settimeout(_left(until))
                data = self._socket.recv(_PIECE)
                if not data:
                    raise ConnectionError("connection to Redis lost: closed")
                self._reader.feed(data)
                some_time_passed = True
        except hiredis.ProtocolError as error:
            raise ConnectionError("the server does not speak Redis's protocol") from error
        return replies

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _left(until: float) -> float:
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
