"""A TCP proxy in front of a server: a test cuts its connections, silences or slows it down.

One event loop owns a proxy. For tests that are not asynchronous, run it in a thread of its own.
"""

import asyncio
import contextlib
import re
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
        """Return the part of `data` that still passes, and whether to break the connection."""
        if self.left is None:
            return data, False
        passed = data[: self.left]
        self.left -= len(passed)
        if self.left:
            return passed, False
        self.left = None
        return passed, True


@dataclass(eq=False)
class Trap:
    """Waits for a request, and for a reply that comes after it on the same connection.

    Both patterns are searched in the pieces of data that pass, so a match must be short. When
    the reply has passed, `sprung` is set and the proxy holds: the receiver of the reply gets no
    more, and its next request does not arrive. Unless the reply `passes`, its receiver does not
    get it either. Without a `request`, what matches `reply` may come on any connection.
    """

    request: re.Pattern[bytes] | None
    reply: re.Pattern[bytes]
    passes: bool = True
    sprung: asyncio.Event = field(default_factory=asyncio.Event)


class _Pieces:
    """The pieces that a connection sends, read ahead, each with its time of arrival."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        data = b"."
        while data:
            with contextlib.suppress(OSError):
                data = b""
                data = await reader.read(_PIECE)
            await self._pieces.put((asyncio.get_running_loop().time(), data))

    async def next(self) -> tuple[float, bytes]:
        """The next piece; an empty one at the end."""
        return await self._pieces.get()

    async def close(self) -> None:
        """Read no more."""
        self._reading.cancel()
        await asyncio.wait({self._reading})


@dataclass
class Proxy:
    """Passes bytes between its own port and the server at `target`, until a fault is set."""

    target: int
    port: int = field(default_factory=free_port)
    delay: float = 0.0
    """Seconds that every piece of data waits, in both directions."""
    late: float = 0.0
    """Seconds by which each reply comes later; they do not hold one another up."""
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
        self._traps: list[Trap] = []
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

    def set_trap(self, trap: Trap) -> None:
        """Hold as soon as the trap's reply has passed; once."""
        self._traps.append(trap)

    def remove_trap(self, trap: Trap) -> None:
        """Do without a trap; also one that is sprung or was never set."""
        with contextlib.suppress(ValueError):
            self._traps.remove(trap)

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
        # Traps whose request has passed here.
        set_off: list[Trap] = []
        pumps = [
            asyncio.create_task(self._pump_requests(reader, server_writer, set_off)),
            asyncio.create_task(self._pump_replies(server_reader, writer, set_off)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers.discard(server_writer)
            server_writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump_requests(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, set_off: list[Trap]
    ) -> None:
        going_on = True
        while going_on and (data := await source.read(_PIECE)):
            await self._open.wait()
            set_off += [trap for trap in self._traps if trap.request and trap.request.search(data)]
            going_on = await self._pass(data, sink, self._requests)

    async def _pump_replies(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, set_off: list[Trap]
    ) -> None:
        pieces, going_on = _Pieces(source), True
        try:
            while going_on:
                came, data = await pieces.next()
                if not data:
                    return
                await self._open.wait()
                if self.late:
                    now = asyncio.get_running_loop().time()
                    await asyncio.sleep(max(came + self.late - now, 0))
                passed = self._spring(data, sink, set_off)
                await self._open.wait()
                going_on = await self._pass(data[passed:], sink, self._replies)
        finally:
            await pieces.close()

    def _spring(self, data: bytes, sink: asyncio.StreamWriter, set_off: list[Trap]) -> int:
        """Let pass what springs a trap, and hold before anything else happens; how much passed."""
        for trap in tuple(self._traps):
            is_set_off = trap.request is None or trap in set_off
            if is_set_off and (found := trap.reply.search(data)):
                self.remove_trap(trap)
                passed = found.end() if trap.passes else found.start()
                sink.write(data[:passed])
                self.hold()
                trap.sprung.set()
                return passed
        return 0

    async def _pass(self, data: bytes, sink: asyncio.StreamWriter, cut: _Cut) -> bool:
        """Hand data on; False when the connections break with it."""
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
        return not broken
