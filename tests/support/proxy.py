"""A TCP proxy in front of a server: a test cuts its connections, silences or slows it down.

One event loop owns a proxy. For tests that are not asynchronous, run it in a thread of its own.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Self

from tests.support.ports import free_port

_PIECE = 65_536


@dataclass
class _Cut:
    """After how many more bytes of one direction all connections break; None for never."""

    left: int | None = None

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What still passes of `data`, and whether it is time to break."""
        if self.left is None:
            return data, False
        passed = data[: self.left]
        self.left -= len(passed)
        if self.left:
            return passed, False
        self.left = None
        return passed, True


@dataclass
class Proxy:
    """Passes bytes between its own port and the server at `target`, until told otherwise."""

    target: int
    port: int = field(default_factory=free_port)
    delay: float = 0.0
    """Seconds that every piece of data waits, in both directions."""
    tls: ssl.SSLContext | None = None
    """Speak TLS to clients; the server behind is spoken to in plain text."""
    accepted: int = 0
    """How many connections were opened so far."""

    def __post_init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._requests = _Cut()
        self._replies = _Cut()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The proxy's address as a Redis URL, database 0."""
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self) -> None:
        """Listen (again)."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)

    async def refuse(self) -> None:
        """Break all connections and refuse new ones, as a server that is down."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Break all connections now."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def cut_requests_after(self, count: int) -> None:
        """Break all connections once when `count` (>= 1) more bytes of requests have passed."""
        self._requests.left = count

    def cut_replies_after(self, count: int) -> None:
        """Break all connections once when `count` (>= 1) more bytes of replies have passed."""
        self._replies.left = count

    def hold(self) -> None:
        """Become a black hole: connections stay open and are accepted, no byte passes."""
        self._open.clear()

    def release(self) -> None:
        """Let the bytes that were held pass, and those that follow."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._bridge(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _bridge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(server_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, self._requests)),
            asyncio.create_task(self._pump(server_reader, writer, self._replies)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers.discard(server_writer)
            server_writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, cut: _Cut
    ) -> None:
        while data := await source.read(_PIECE):
            await self._open.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            passed, broken = cut.take(data)
            sink.write(passed)
            await sink.drain()
            if broken:
                # What passed must reach the other side before the connection breaks.
                sink.close()
                await sink.wait_closed()
                self.cut()
                return
