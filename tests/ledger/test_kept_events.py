"""Events of runs without a stream: changes of state are kept in the record until one is needed."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillfleet.contracts import RunEvent, RunState
from skillfleet_ledger import Ledger, streams
from skillfleet_ledger.runs.records import Lease
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    event,
    read_all,
    running,
    settings_for,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

TASK = "librarian.survey"


async def has_stream(ledger: Ledger, run_id: str) -> bool:
    return bool(await touch(ledger, "EXISTS", run_id, f"events:{run_id}"))


async def test_a_run_that_emits_nothing_has_no_stream(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert not await has_stream(ledger, lease.run_id)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert not await has_stream(ledger, lease.run_id)
    first, last = await read_all(ledger, lease.run_id)
    assert (first.id, first.payload["state"], first.attempt) == ("1-0", "running", 1)
    assert (last.id, last.payload["state"], last.final) == ("2-0", "succeeded", True)
    assert first.at <= last.at
    assert not await has_stream(ledger, lease.run_id)


async def test_a_reader_waits_for_a_change_of_state_and_not_for_its_next_look(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_MS", 3_600_000)
    new = await submitted(ledger)
    seen: list[RunEvent] = []

    async def read() -> None:
        async for one in ledger.streams.read(new.id):
            seen.append(one)  # noqa: PERF401 - the list is looked at while it grows

    reader = asyncio.create_task(read())

    async def follows() -> bool:
        return await touch(ledger, "HGET", new.id, f"run:{new.id}", "stream") == b"1"  # type: ignore[no-any-return]

    await wait_until_async(follows, what="the reader to wait")
    lease = await claimed(ledger, new.id)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    async with asyncio.timeout(20):
        await reader
    assert [one.id for one in seen] == ["1-0", "2-0"]


@pytest.mark.parametrize(
    "forged",
    [b"x", b"1 2 {}\n3 4 {", b"1 2 {}\n" * 50, b"\n\n1 2 {}\n"],
    ids=["text", "cut off", "too many", "empty lines"],
)
@pytest.mark.parametrize("emits", [True, False])
async def test_a_record_with_invalid_kept_events_breaks_nothing(
    unaudited: Ledger, forged: bytes, *, emits: bool
) -> None:
    lease, seq = await running(unaudited), 1
    await touch(unaudited, "HSET", lease.run_id, f"run:{lease.run_id}", "kept", forged)
    if emits:
        seq = 2
        await unaudited.streams.append(lease, seq, [event("mine")])
    else:
        await touch(unaudited, "HSET", lease.run_id, f"run:{lease.run_id}", "stream", "1")
    await unaudited.leases.settle(lease, TASK, seq, DONE)
    assert (await read_all(unaudited, lease.run_id))[-1].final


async def test_a_record_keeps_eight_changes_of_state(ledger: Ledger) -> None:
    lease = await running(ledger)
    for number in (2, 4, 6, 8):
        await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="again")
        assert (await ledger.queries.state(lease.run_id))[1] == number
        assert not await has_stream(ledger, lease.run_id)
        lease = await claimed(ledger, lease.run_id)
    assert await touch(ledger, "XLEN", lease.run_id, f"events:{lease.run_id}") == 9
    assert await touch(ledger, "HGET", lease.run_id, f"run:{lease.run_id}", "kept") == b""


async def test_a_batch_that_adds_nothing_makes_no_stream(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.streams.append(lease, 1, [event("old")]) == (1, "")
    assert not await has_stream(ledger, lease.run_id)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    shown_events = [(one.id, one.kind) for one in await read_all(ledger, lease.run_id)]
    assert shown_events == [("1-0", "state"), ("2-0", "state")]


async def act(ledger: Ledger, lease: Lease, seq: int, step: str) -> tuple[Lease, int, list[Any]]:
    """Take one step in the life of a run; return lease, last number, and added events."""
    if step == "emit":
        await ledger.streams.append(lease, seq + 1, [event("mine")])
        return lease, seq + 1, [("log", lease.attempt)]
    if step == "follow":
        async for _ in ledger.streams.read(lease.run_id):
            break
        return lease, seq, []
    await ledger.leases.requeue(lease, seq, outcome="retry", reason="again")
    again = await claimed(ledger, lease.run_id)
    return again, again.seq, [("queued", lease.attempt), ("running", again.attempt)]


def shown(one: RunEvent) -> tuple[str, int]:
    return (one.payload["state"] if one.kind == "state" else "log"), one.attempt


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["emit", "follow", "retry", "retry", "retry"]), max_size=9))
def test_all_events_are_there_in_order_whenever_a_stream_becomes_necessary(
    valkey_server: ValkeyServer, steps: list[str]
) -> None:
    async def check() -> None:
        ledger = Ledger(settings_for(valkey_server))
        try:
            lease = await running(ledger)
            seq, expected = lease.seq, [("running", 1)]
            for step in steps:
                lease, seq, added = await act(ledger, lease, seq, step)
                expected += added
            await ledger.leases.settle(lease, TASK, seq, DONE)
            expected.append((RunState.SUCCEEDED, lease.attempt))
            events = await read_all(ledger, lease.run_id)
            assert [shown(one) for one in events] == expected
            assert [one.id for one in events] == [f"{n + 1}-0" for n in range(len(expected))]
            for position, one in enumerate(events[:-1], start=1):
                rest = [each async for each in ledger.streams.read(lease.run_id, one.id)]
                assert rest == events[position:]
            left = await touch(ledger, "PTTL", lease.run_id, f"events:{lease.run_id}")
            assert left == -2 or 0 < left <= LONG_MS
        finally:
            await ledger.close()

    asyncio.run(check())
