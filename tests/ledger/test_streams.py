"""Event streams: appending under the lease, reading live and again."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillfleet.contracts import RunEvent
from skillfleet.errors import FleetUnavailableError, UnknownRunError
from skillfleet_ledger import Ledger
from tests.ledger.helpers import (
    DONE,
    claimed,
    event,
    lapse,
    read_all,
    reap,
    running,
    settings_for,
    submitted,
    touch,
)
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

TASK = "librarian.survey"


def texts(events: list[RunEvent]) -> list[str]:
    return [one.payload["text"] for one in events if one.kind == "text"]


async def test_events_are_read_in_the_order_of_their_batches(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.streams.append(lease, 2, [event("a"), event("b")]) == (3, "")
    assert await ledger.streams.append(lease, 4, [event("c")]) == (4, "")
    await ledger.leases.settle(lease, TASK, 4, DONE)
    events = await read_all(ledger, lease.run_id)
    assert [one.id for one in events] == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    assert texts(events) == ["a", "b", "c"]
    assert events[1].attempt == 1
    assert events[1].at.timestamp() == 1_795_000_000


async def test_a_repeated_batch_is_appended_once_also_when_it_overlaps(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.streams.append(lease, 2, [event("a"), event("b")])
    assert await ledger.streams.append(lease, 2, [event("a"), event("b")]) == (3, "")
    assert await ledger.streams.append(lease, 3, [event("b"), event("c")]) == (4, "")
    await ledger.leases.settle(lease, TASK, 4, DONE)
    assert texts(await read_all(ledger, lease.run_id)) == ["a", "b", "c"]


async def test_a_batch_that_would_leave_a_gap_is_not_appended(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.streams.append(lease, 3, [event("b")]) == (1, "")
    assert await touch(ledger, "XLEN", lease.run_id, f"events:{lease.run_id}") == 0


async def test_an_attempt_that_lost_its_lease_appends_nothing(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert await ledger.streams.append(lease, 2, [event("stale")]) is None
    second = await claimed(ledger, lease.run_id, "w2")
    assert await ledger.streams.append(lease, second.seq + 1, [event("stale")]) is None
    await ledger.streams.append(second, second.seq + 1, [event("fresh")])
    await ledger.leases.settle(second, TASK, second.seq + 1, DONE)
    assert await ledger.streams.append(second, second.seq + 3, [event("late")]) is None
    assert texts(await read_all(ledger, lease.run_id)) == ["fresh"]


async def test_the_stream_is_capped_and_a_marker_says_how_many_events_are_missing(
    valkey: ValkeyServer,
) -> None:
    ledger = Ledger(settings_for(valkey, max_events=100))
    try:
        lease = await running(ledger)
        for first in range(2, 1002, 100):
            batch = [event(str(first + i)) for i in range(100)]
            await ledger.streams.append(lease, first, batch)
        await ledger.leases.settle(lease, TASK, 1001, DONE)
        marker, *rest = await read_all(ledger, lease.run_id)
        assert marker.kind == "trimmed"
        assert len(rest) < 300
        assert marker.payload["missed"] + len(rest) == 1002
        assert [int(one.id.split("-")[0]) for one in rest] == list(range(1003 - len(rest), 1003))
        assert await read_all(ledger, lease.run_id, marker.id) == rest
    finally:
        await ledger.close()


async def test_a_reader_follows_a_run_from_before_its_start_to_its_end(ledger: Ledger) -> None:
    new = await submitted(ledger)
    reader = asyncio.create_task(read_all(ledger, new.id))
    lease = await claimed(ledger, new.id)
    for number in range(2, 30):
        await ledger.streams.append(lease, number, [event(str(number))])
    await ledger.leases.settle(lease, TASK, 29, DONE)
    events = await asyncio.wait_for(reader, 10)
    assert [int(one.id.split("-")[0]) for one in events] == list(range(1, 31))
    assert await read_all(ledger, new.id) == events


async def test_many_readers_see_the_same(ledger: Ledger) -> None:
    lease = await running(ledger)
    readers = [asyncio.create_task(read_all(ledger, lease.run_id)) for _ in range(40)]
    for number in range(2, 12):
        await ledger.streams.append(lease, number, [event(str(number))])
    await ledger.leases.settle(lease, TASK, 11, DONE)
    seen = await asyncio.gather(*readers)
    assert all(events == seen[0] for events in seen)
    assert len(seen[0]) == 12


async def test_a_stream_longer_than_a_page_is_read_whole(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.streams.append(lease, 2, [event(str(i)) for i in range(2000)])
    await ledger.leases.settle(lease, TASK, 2001, DONE)
    assert len(await read_all(ledger, lease.run_id)) == 2002
    assert len(await read_all(ledger, lease.run_id, "1500-0")) == 502


async def test_a_reader_that_resumes_after_the_end_gets_nothing(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(lease, TASK, 1, DONE)
    assert await read_all(ledger, lease.run_id, "2-0") == []
    assert await read_all(ledger, lease.run_id, "99-0") == []


@pytest.mark.parametrize("bad", ["x", "-1", "1-1", "1-", "٣-0", "1-0-0", " 1-0"])
async def test_an_invalid_event_id_is_refused(ledger: Ledger, bad: str) -> None:
    lease = await running(ledger)
    with pytest.raises(ValueError, match="is not an event id"):
        await read_all(ledger, lease.run_id, bad)


async def test_an_unknown_run_has_no_stream(ledger: Ledger) -> None:
    with pytest.raises(UnknownRunError):
        await read_all(ledger, "unknown")


async def test_a_reader_that_is_stopped_leaves_a_usable_ledger(ledger: Ledger) -> None:
    lease = await running(ledger)
    waiting = [asyncio.create_task(read_all(ledger, lease.run_id)) for _ in range(5)]
    await asyncio.sleep(0.05)
    for reader in waiting:
        reader.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await ledger.leases.settle(lease, TASK, 1, DONE)
    assert len(await read_all(ledger, lease.run_id)) == 2


async def test_a_reader_that_is_stopped_in_its_own_turn_stops(ledger: Ledger) -> None:
    """Ctrl-C does this while an event is shown.

    A cancellation that waits for its task's next await is lost in `asyncio.timeout(0)`, with
    which redis-py looks at its connections: the reader went on to the end of the run.
    """
    lease = await running(ledger)
    for _ in range(3):
        reader = asyncio.create_task(_stop_at_the_first(ledger, lease.run_id))
        done, _ = await asyncio.wait([reader], timeout=10)
        assert done
        assert reader.cancelled()


@pytest.mark.parametrize("turns", range(30))
async def test_a_reader_that_is_stopped_in_any_turn_of_the_loop_stops(
    valkey: ValkeyServer, turns: int
) -> None:
    ledger = Ledger(settings_for(valkey))
    try:
        lease = await running(ledger)
        reader = asyncio.create_task(read_all(ledger, lease.run_id))
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        done, _ = await asyncio.wait([reader], timeout=10)
        assert done
        assert reader.cancelled()
    finally:
        await ledger.close()


async def test_a_reader_continues_when_its_connections_break(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        ledger = Ledger(settings_for(valkey))
        cut = Ledger(settings_for(valkey, redis_url=proxy.url))
        try:
            lease = await running(ledger)
            seen: list[RunEvent] = []
            reader = asyncio.create_task(_collect(cut.streams.read(lease.run_id), seen))
            for number in range(2, 22):
                await ledger.streams.append(lease, number, [event(str(number))])
                if number % 5 == 0:
                    proxy.cut()
            await ledger.leases.settle(lease, TASK, 21, DONE)
            await asyncio.wait_for(reader, 20)
            assert [int(one.id.split("-")[0]) for one in seen] == list(range(1, 23))
        finally:
            await cut.close()
            await ledger.close()


async def test_a_reader_whose_connection_fell_silent_goes_on_with_another(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy:
        ledger = Ledger(settings_for(valkey))
        silent = Ledger(settings_for(valkey, redis_url=proxy.url, redis_timeout_seconds=0.5))
        try:
            lease = await running(ledger)
            reader = asyncio.create_task(read_all(silent, lease.run_id))

            async def waits() -> bool:
                return proxy.accepted == 2

            await wait_until_async(waits, what="the reader to wait for events")
            proxy.hold()
            await ledger.leases.settle(lease, TASK, 1, DONE)

            async def noticed() -> bool:
                return proxy.accepted >= 3

            await wait_until_async(noticed, what="the silence to be noticed")
            proxy.release()
            assert len(await asyncio.wait_for(reader, 20)) == 2
        finally:
            await silent.close()
            await ledger.close()


async def test_a_stream_that_vanished_ends_its_readers(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.streams.append(lease, 2, [event("x")])
    await ledger.leases.settle(lease, TASK, 2, DONE)
    kept = await touch(ledger, "DUMP", lease.run_id, f"events:{lease.run_id}")
    await touch(ledger, "DEL", lease.run_id, f"events:{lease.run_id}")
    assert await asyncio.wait_for(read_all(ledger, lease.run_id), 10) == []
    await touch(ledger, "RESTORE", lease.run_id, f"events:{lease.run_id}", 60_000, kept)


async def test_a_reader_fails_in_bounded_time_when_redis_stays_down(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        ledger = Ledger(settings_for(valkey, redis_url=proxy.url, redis_timeout_seconds=0.4))
        try:
            lease = await running(ledger)
            reader = asyncio.create_task(read_all(ledger, lease.run_id))
            await asyncio.sleep(0.05)
            await proxy.refuse()
            with pytest.raises(FleetUnavailableError):
                await asyncio.wait_for(reader, 20)
        finally:
            await ledger.close()


async def _collect(events: AsyncIterator[RunEvent], into: list[RunEvent]) -> None:
    async for one in events:
        into.append(one)  # noqa: PERF401 - the list is looked at while it grows


async def _stop_at_the_first(ledger: Ledger, run_id: str) -> None:
    async for _ in ledger.streams.read(run_id):
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
