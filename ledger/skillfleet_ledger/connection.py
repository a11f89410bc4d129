"""One connection to Redis that pipelines by itself.

All commands issued in one turn of the event loop leave in one write, and replies are matched
in order. A busy process so pays one system call for many commands, and nobody waits for a
connection out of a pool. Blocking commands and SUBSCRIBE do not belong here.
"""

import asyncio
import logging
import ssl as tls
from collections import deque
from typing import Any

import hiredis
from redis.asyncio.connection import parse_url
from skillfleet.errors import FleetUnavailableError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 5.0


class ReplyError(Exception):
    """Redis answered a command with an error; the message is Redis's own."""


class PipelinedConnection:
    """A self-connecting, self-pipelining Redis connection for one event loop.

    `url` is a redis://, rediss:// or unix:// URL. `timeout` bounds in seconds how long a
    command may wait for its reply, connecting included. Not safe to share between loops.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, name: str = "skillfleet") -> None:
        self._options: dict[str, Any] = dict(parse_url(url))
        self._timeout = timeout
        self._name = name
        self._outbox: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flush_due = False
        self._closed = False

    def call(self, *command: Any) -> "asyncio.Future[Any]":
        """Send a command; the future holds its reply (bytes, int, list or None).

        It fails with ReplyError, or with ConnectionError when the connection breaks before the
        reply: whether the command was carried out is then unknown.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            future.set_exception(FleetUnavailableError("this connection to Redis was closed"))
            return future
        self._outbox.append((command, future))
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        return future

    async def execute(self, *command: Any, timeout: float | None = None) -> Any:
        """Send a command that may be repeated without harm and return its reply.

        Repeats it on a broken connection until `timeout` seconds (default: the connection's)
        are over; raises FleetUnavailableError then, ReplyError at once.
        """
        patience = self._timeout if timeout is None else timeout
        cause: Exception | None = None
        try:
            async with asyncio.timeout(patience):
                while True:
                    try:
                        return await self.call(*command)
                    except (ConnectionError, OSError) as error:
                        if self._closed:
                            raise
                        cause = error
                        await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            reason = f": {cause}" if cause else ""
            message = f"Redis at {self.address} did not answer within {patience:g} s{reason}"
            raise FleetUnavailableError(message) from cause

    @property
    def address(self) -> str:
        """Where the server is, without credentials."""
        options = self._options
        if "path" in options:
            return str(options["path"])
        return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"

    async def close(self) -> None:
        """Send what was issued, then close; replies still missing fail."""
        if self._wire is not None and self._outbox:
            self._flush()
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._fail_outbox(ConnectionError("the connection was closed"))

    def _flush(self) -> None:
        self._flush_due = False
        if not self._outbox:
            return
        if self._wire is None or self._wire.lost:
            if self._connecting is None and not self._closed:
                self._connecting = asyncio.ensure_future(self._connect())
            return
        outbox, self._outbox = self._outbox, []
        self._wire.send(outbox)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(min(_CONNECT_SECONDS, self._timeout)):
                self._wire = await self._open()
        except (OSError, ReplyError, TimeoutError) as error:
            logger.debug("cannot connect to Redis at %s: %s", self.address, error)
            self._fail_outbox(ConnectionError(f"cannot connect: {str(error) or 'timed out'}"))
        finally:
            self._connecting = None
        self._flush()

    async def _open(self) -> "_Wire":
        loop = asyncio.get_running_loop()
        options = self._options

        def factory() -> _Wire:
            return _Wire(self._timeout)

        wire: _Wire
        if "path" in options:
            _, wire = await loop.create_unix_connection(factory, options["path"])
        else:
            host, port = options.get("host", "localhost"), int(options.get("port", 6379))
            _, wire = await loop.create_connection(
                factory, host, port, ssl=_tls_context(options), server_hostname=None
            )
        try:
            for command in self._handshake():
                reply = loop.create_future()
                wire.send([(command, reply)])
                await reply
        except BaseException:
            wire.close()
            raise
        return wire

    def _handshake(self) -> list[tuple[Any, ...]]:
        options = self._options
        commands: list[tuple[Any, ...]] = []
        if options.get("password"):
            user = (options["username"],) if options.get("username") else ()
            commands.append(("AUTH", *user, options["password"]))
        if int(options.get("db", 0) or 0):
            commands.append(("SELECT", int(options["db"])))
        commands.append(("CLIENT", "SETNAME", self._name))
        return commands

    def _fail_outbox(self, error: Exception) -> None:
        outbox, self._outbox = self._outbox, []
        for _, future in outbox:
            if not future.done():
                future.set_exception(error)


class _Wire(asyncio.Protocol):
    """The bytes of one connection: commands out, replies in, in order."""

    def __init__(self, timeout: float) -> None:
        self.lost = False
        self._timeout = timeout
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._awaited: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._heard_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows for the checker
        self._transport = transport
        self._heard_at = asyncio.get_running_loop().time()

    def send(self, commands: list[tuple[tuple[Any, ...], "asyncio.Future[Any]"]]) -> None:
        """Write the commands at once and await their replies."""
        packed = []
        for command, future in commands:
            try:
                packed.append(hiredis.pack_command(command))
            except Exception as error:  # noqa: BLE001 - one bad command must not stop the others
                future.set_exception(TypeError(f"not a Redis command: {error}"))
                continue
            self._awaited.append(future)
        if not packed or self._transport is None:
            return
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))
        if self._watch is None:
            loop = asyncio.get_running_loop()
            self._heard_at = loop.time()
            self._watch = loop.call_later(self._timeout, self._check_silence)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._heard_at = asyncio.get_running_loop().time()
        awaited = self._awaited
        while (reply := self._reader.gets()) is not False:
            future = awaited.popleft()
            if future.done():
                continue
            if isinstance(reply, ReplyError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        awaited, self._awaited = self._awaited, deque()
        for future in awaited:
            if not future.done():
                future.set_exception(
                    ConnectionError(f"connection to Redis lost: {exc or 'closed'}")
                )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _check_silence(self) -> None:
        """Give a half-open connection up: replies are due and nothing came for the timeout."""
        self._watch = None
        if not self._awaited:
            return
        loop = asyncio.get_running_loop()
        silent = loop.time() - self._heard_at
        if silent < self._timeout:
            self._watch = loop.call_later(self._timeout - silent, self._check_silence)
        elif self._transport is not None:
            self.lost = True
            self._transport.abort()


def _tls_context(options: dict[str, Any]) -> tls.SSLContext | None:
    """The TLS context for a rediss:// URL's options (redis-py's names); None without TLS."""
    if "connection_class" not in options:
        return None
    context = tls.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") in ("none", tls.CERT_NONE):
        context.check_hostname = False
        context.verify_mode = tls.CERT_NONE
    elif str(options.get("ssl_check_hostname", "true")).lower() in ("false", "0", "no"):
        context.check_hostname = False
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
