"""A connection to Redis whose replies are read when they arrive."""

import select
import ssl
import time
from collections.abc import Iterator
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

# kombu counts KeyError among the connection errors, which hides unrelated errors. A Redis that
# refuses commands (full, loading, failing over, read-only, other ACL) counts as unavailable too.
BROKEN = (RedisConnectionError, RedisTimeoutError, ResponseError, OSError)


class RefusedError(RedisConnectionError):
    """Redis refused a command; the refusal may be temporary."""


_PIECE = 65_536
_PUSH: type = getattr(hiredis, "PushNotification", type(None))
_NOTHING = object()


class RedisSocket:
    """A socket that sends commands at once and parses replies in order; one thread at a time.

    `connection` is redis-py's: it opens the socket and does TLS, authentication, database and
    name. Only opening, a full send buffer and `wait` can block. Every method raises redis-py's
    ConnectionError when the connection is broken.
    """

    def __init__(self, connection: Any) -> None:
        connection.connect()
        self._connection = connection
        self._socket: Any = connection._sock  # noqa: SLF001 - kombu's own transport reads it too
        self._timeout: float | None = self._socket.gettimeout()
        connection.send_command("CLIENT", "ID")
        self.id = int(connection.read_response())
        self._reader = hiredis.Reader(replyError=ResponseError, notEnoughData=_NOTHING)
        self.fd: int = self._socket.fileno()
        self.due = 0
        self.waiting_since = 0.0

    @property
    def readable(self) -> bool:
        """True when there is data to read."""
        return self._poll(0)

    def send(self, *command: Any) -> None:
        """Send one command, whose reply is due from then on."""
        if not self.due:
            self.waiting_since = time.monotonic()
        self.due += 1
        try:
            self._socket.sendall(hiredis.pack_command(command))
        except OSError as error:
            raise RedisConnectionError(f"cannot write to Redis: {error}") from error

    def receive(self) -> list[Any]:
        """Read the replies that have arrived; an error reply is a ResponseError in the list."""
        ended = False
        self._socket.settimeout(0)
        try:
            while data := self._socket.recv(_PIECE):
                self._reader.feed(data)
            ended = True
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            raise RedisConnectionError(f"cannot read from Redis: {error}") from error
        finally:
            self._socket.settimeout(self._timeout)
        try:
            replies = list(self._replies())
        except hiredis.ProtocolError as error:
            raise RedisConnectionError(f"not a Redis server: {error}") from error
        if ended and not replies:
            raise RedisConnectionError("Redis closed the connection")
        return replies

    def wait(self, seconds: float) -> list[Any]:
        """Block until a reply arrives, at most `seconds`; return the replies."""
        if not self._poll(seconds):
            raise RedisConnectionError(f"Redis did not answer within {seconds:g} s")
        return self.receive()

    def close(self) -> None:
        """Close the connection, even if a forked child holds a copy of it."""
        self._connection.disconnect()

    def _poll(self, seconds: float) -> bool:
        # TLS may have decrypted more than was read.
        if (pending := getattr(self._socket, "pending", None)) is not None and pending():
            return True
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def _replies(self) -> Iterator[Any]:
        while (reply := self._reader.gets()) is not _NOTHING:
            if isinstance(reply, _PUSH):
                continue
            self.due -= 1
            self.waiting_since = time.monotonic()
            yield reply
