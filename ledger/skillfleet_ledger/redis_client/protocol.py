"""One socket to Redis: opening it, and the protocol that runs on it.

All kinds of connection are built on this: pipelining (connection.py), blocking (blocking.py) and
pub/sub (pubsub.py).
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Any, TypeVar, cast

import hiredis

from skillfleet.errors import FleetClosedError, FleetUnavailableError
from skillfleet_ledger.redis_client.address import Address
from skillfleet_ledger.redis_client.replies import RefusedError, ReplyError

RETRY_SECONDS = 0.2
REFUSED_SECONDS = 1.0
"""The time between two tries where Redis refuses user, password or database."""
_CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 1.0


class RespProtocol(asyncio.Protocol):
    """The bytes of one connection. A subclass handles replies and the end of the connection."""

    def __init__(self) -> None:
        self.lost = False
        self.transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._gone = asyncio.Event()

    def on_reply(self, reply: Any) -> None:
        """Handle one reply, which may be a ReplyError."""
        raise NotImplementedError

    def on_lost(self, error: ConnectionError) -> None:
        """Handle the end of the connection: no more replies come."""
        raise NotImplementedError

    def write(self, packed: bytes) -> None:
        """Send commands in Redis's format; on a broken connection they are lost."""
        # uvloop's transports raise RuntimeError from the break until connection_lost is called.
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(packed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by asyncio."""
        # uvloop's transports are not subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Parse bytes into replies; called by asyncio."""
        try:
            self._reader.feed(data)
            while not self.lost and (reply := self._reader.gets()) is not False:
                self.on_reply(reply)
        except hiredis.ProtocolError:
            # The server is not Redis.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the subclass; called by asyncio."""
        self.lost = True
        self._gone.set()
        self.on_lost(ConnectionError(f"connection to Redis lost: {exc or 'closed'}"))

    def abort(self) -> None:
        """Close the connection at once."""
        self.lost = True
        if self.transport is not None:
            self.transport.abort()

    async def close(self) -> None:
        """Send what was written, then close; wait until the socket is gone."""
        self.lost = True
        if self.transport is None:
            return
        self.transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._gone.wait()
        self.transport.abort()


def connection_name(name: str) -> str:
    """Replace what Redis refuses in the name of a connection, such as spaces."""
    return "".join(letter if "!" <= letter <= "~" else "-" for letter in name)


def utf8(text: str) -> bool:
    """Return False for a string with half of a surrogate pair, which cannot be sent to Redis."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def packed(command: tuple[Any, ...]) -> bytes:
    """Return a command in Redis's format; raises ValueError or TypeError for an invalid one."""
    try:
        return bytes(hiredis.pack_command(command))
    except UnicodeError as error:
        raise ValueError(f"not a Redis command: {error}") from error
    except Exception as error:
        raise TypeError(f"not a Redis command: {error}") from error


def pause_after(error: Exception) -> float:
    """Return the seconds to wait before the next try."""
    reply = error if isinstance(error, ReplyError) else error.__cause__
    refused = isinstance(reply, ReplyError) and reply.refusing
    return REFUSED_SECONDS if refused else RETRY_SECONDS


def closed_error() -> FleetClosedError:
    """Return the error of a call on a connection that was closed."""
    return FleetClosedError("this connection of the fleet was closed: make a new fleet")


W = TypeVar("W", bound=RespProtocol)


class Endpoint:
    """A server to open connections to: a redis://, rediss:// or unix:// URL.

    A `patient` one treats a missing permission or a wrong password as an outage.
    """

    def __init__(self, url: str, timeout: float, *, patient: bool = False) -> None:
        self.address = Address.parse(url)
        self._timeout = min(_CONNECT_SECONDS, timeout)
        self._patient = patient
        self._tls: ssl.SSLContext | None = None

    def handshake(self, name: str) -> list[tuple[Any, ...]]:
        """Return the first commands of a connection called `name`."""
        address = self.address
        commands: list[tuple[Any, ...]] = []
        if address.password:
            user = (address.username,) if address.username else ()
            commands.append(("AUTH", *user, address.password))
        if address.database:
            commands.append(("SELECT", address.database))
        commands.append(("CLIENT", "SETNAME", name))
        return commands

    def judge(self, error: Exception) -> None:
        """Return if another try may succeed, else raise the error for the caller."""
        if isinstance(error, FleetUnavailableError):
            raise error
        if not isinstance(error, ReplyError) or error.passing:
            return
        if not error.refusing:
            raise error
        if not self._patient:
            raise self._refused(error)

    def unconnected(self, error: Exception) -> Exception:
        """Build the error for callers that wait for a connection."""
        if isinstance(error, ReplyError) and error.refusing and not self._patient:
            return self._refused(error)
        reason = error.reason if isinstance(error, ReplyError) else str(error) or "timed out"
        failure = ConnectionError(f"cannot connect: {reason}")
        failure.__cause__ = error
        return failure

    def _refused(self, reply: ReplyError) -> RefusedError:
        failure = RefusedError(
            f"Redis at {self.address} refuses the fleet: {reply.reason};"
            " check server, user, password and database in SKILLFLEET_REDIS_URL"
        )
        failure.__cause__ = reply
        return failure

    def unavailable(self, seconds: float, error: Exception | None) -> FleetUnavailableError:
        """Return the error to raise after `seconds` of failed tries; `error` is the last one."""
        if isinstance(error, ReplyError):
            what, reason = f"refused for {seconds:g} s", f": {error.reason}"
        else:
            what = f"did not answer within {seconds:g} s"
            reason = f": {error}" if error else ""
        return FleetUnavailableError(f"Redis at {self.address} {what}{reason}")

    def connect(self, seconds: float) -> socket.socket:
        """Open a socket for blocking code, within `seconds`; raises OSError."""
        address, seconds = self.address, min(self._timeout, seconds)
        if address.path is not None:
            connected = socket.socket(socket.AF_UNIX)
            try:
                connected.settimeout(seconds)
                connected.connect(address.path)
            except BaseException:
                connected.close()
                raise
            return connected
        connected = socket.create_connection((address.host, address.port), seconds)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if (tls := self._tls_context()) is None:
            return connected
        return tls.wrap_socket(connected, server_hostname=address.host)

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            self._tls = self.address.tls_context()
        return self._tls

    async def open(self, factory: type[W], *args: Any) -> W:
        """Open a connection with the protocol `factory(*args)`; raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        address = self.address
        async with asyncio.timeout(self._timeout):
            if address.path is not None:
                _, protocol = await loop.create_unix_connection(
                    lambda: factory(*args), address.path
                )
                return protocol
            tls = self._tls_context()
            _, protocol = await loop.create_connection(
                lambda: factory(*args), address.host, address.port, ssl=tls
            )
            return protocol
