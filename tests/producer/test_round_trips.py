"""Results and snapshots of finished runs take one round trip, with either front."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from skillfleet_ledger import Ledger
from skillfleet_producer import AsyncFleet, Fleet
from tests.ledger.helpers import DONE, claimed, settings_for, submitted
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer


class Turns:
    """A relay to a server that counts how often a client speaks after it was answered."""

    def __init__(self, upstream: int) -> None:
        self.count = 0
        self.port = free_port()
        self._upstream = upstream
        self._answered = True

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Inside, it relays."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", self.port):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        await asyncio.gather(self._pass(reader, back, asks=True), self._pass(there, writer))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asks: bool = False
    ) -> None:
        while data := await reader.read(65_536):
            if asks and self._answered:
                self.count += 1
            self._answered = not asks
            writer.write(data)
        writer.close()


async def read_asynchronously(url: str, run_id: str, turns: Turns, what: str) -> int:
    async with AsyncFleet(url) as fleet:
        await fleet.ledger.connection.execute("PING")
        before = turns.count
        await getattr(fleet.run(run_id), what)()
        return turns.count - before


async def read_synchronously(url: str, run_id: str, turns: Turns, what: str) -> int:
    def read() -> int:
        with Fleet(url) as fleet:
            getattr(fleet.run(run_id), what)()  # it connects
            before = turns.count
            getattr(fleet.run(run_id), what)()
            return turns.count - before

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("what", ["result", "status"])
@pytest.mark.parametrize("read", [read_asynchronously, read_synchronously])
async def test_a_finished_run_is_read_in_one_round_trip(
    valkey: ValkeyServer, read: Callable[[str, str, Turns, str], Awaitable[int]], what: str
) -> None:
    ledger = Ledger(settings_for(valkey))
    try:
        lease = await claimed(ledger, (await submitted(ledger)).id)
        await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
        turns = Turns(valkey.port)
        async with turns.listening():
            url = f"redis://127.0.0.1:{turns.port}/0"
            assert await read(url, lease.run_id, turns, what) == 1
    finally:
        await ledger.close()
