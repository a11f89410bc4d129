"""Property: a reader that disconnects after any event and resumes sees exactly the rest."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillfleet.contracts import RunEvent
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease
from tests.ledger.helpers import DONE, event, running, settings_for
from tests.support.valkey import ValkeyServer

CAP = 100
TASK = "librarian.survey"


async def take(ledger: Ledger, run_id: str, after: str | None, most: int) -> list[RunEvent]:
    """Read at most `most` events and disconnect."""
    taken: list[RunEvent] = []
    if most == 0:
        return taken
    reader: AsyncIterator[RunEvent] = ledger.streams.read(run_id, after)
    async for one in reader:
        taken.append(one)
        if len(taken) == most:
            break
    await reader.aclose()  # type: ignore[attr-defined]
    return taken


def number_of(one: RunEvent) -> int:
    return int(one.id.split("-")[0])


async def read_in_pieces(
    ledger: Ledger, lease: Lease, steps: list[tuple[int, int]]
) -> tuple[list[RunEvent], int]:
    """Write and read alternately, by (events to append, events to read); then end the run."""
    seq = lease.seq
    seen: list[RunEvent] = []
    for count, reads in steps:
        wanted = reads
        await ledger.streams.append(lease, seq + 1, [event(str(seq + i + 1)) for i in range(count)])
        seq += count
        while wanted > 0 and (number_of(seen[-1]) if seen else 0) < seq:
            # Reads one event, or a few, and disconnects; a marker may stand for many.
            missing = seq - (number_of(seen[-1]) if seen else 0)
            most = min(wanted, 3, missing) if missing < CAP else 1
            seen += await take(ledger, lease.run_id, seen[-1].id if seen else None, most)
            wanted -= most
    await ledger.leases.settle(lease, TASK, seq, DONE)
    seen += await take(ledger, lease.run_id, seen[-1].id if seen else None, 10**9)
    return seen, seq + 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_resuming_anywhere_sees_exactly_the_rest(
    valkey_server: ValkeyServer, steps: list[tuple[int, int]]
) -> None:
    async def check() -> None:
        ledger = Ledger(settings_for(valkey_server))
        try:
            seen, last = await read_in_pieces(ledger, await running(ledger), steps)
            assert [number_of(one) for one in seen] == list(range(1, last + 1))
            assert all(one.payload["text"] == str(number_of(one)) for one in seen[1:-1])
            assert [one.final for one in seen] == [False] * (last - 1) + [True]
        finally:
            await ledger.close()

    asyncio.run(check())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 40)), max_size=6))
def test_what_was_trimmed_before_it_was_read_is_counted_exactly(
    valkey_server: ValkeyServer, steps: list[tuple[int, int]]
) -> None:
    async def check() -> None:
        ledger = Ledger(settings_for(valkey_server, max_events=CAP))
        try:
            seen, last = await read_in_pieces(ledger, await running(ledger), steps)
            expected = 1
            for one in seen:
                if one.kind == "trimmed":
                    expected += one.payload["missed"]
                    assert one.payload["missed"] > 0
                    assert number_of(one) == expected - 1
                else:
                    assert number_of(one) == expected
                    expected += 1
            assert expected == last + 1
            assert seen[-1].final
        finally:
            await ledger.close()

    asyncio.run(check())


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 700_000), max_size=6), st.integers(0, 255))
def test_an_artifact_comes_back_whatever_pieces_it_came_in(
    valkey_server: ValkeyServer, sizes: list[int], seed: int
) -> None:
    pieces = [bytes([(seed + index) % 256]) * size for index, size in enumerate(sizes)]

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def check() -> None:
        ledger = Ledger(settings_for(valkey_server))
        try:
            lease = await running(ledger)
            info = await ledger.artifacts.write(lease, "a", source(), "text/plain")
            read = [chunk async for chunk in ledger.artifacts.read(lease.run_id, "a")]
            assert b"".join(read) == b"".join(pieces)
            assert info.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()
            assert info.size_bytes == sum(sizes)
            await ledger.connection.execute("FLUSHALL")
        finally:
            await ledger.close()

    asyncio.run(check())
