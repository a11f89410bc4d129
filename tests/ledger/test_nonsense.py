"""An invalid record, which a producer's Redis user may write, affects only its own run."""

import time
from collections.abc import AsyncIterator

import pytest

from skillfleet.contracts import WaitOutcome
from skillfleet.ports.journal import Decision
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import DecideStatus
from tests.ledger.durable import YES, entry, let_expire, opened, parked
from tests.ledger.helpers import (
    DONE,
    claimed,
    lapse,
    newest,
    read_all,
    reap,
    running,
    settings_for,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

TEN_MINUTES = 600


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """Yield a ledger without an auditor: these tests corrupt records."""
    ledger = Ledger(settings_for(valkey), name="test")
    yield ledger
    await ledger.close()


async def forged(ledger: Ledger, run_id: str, name: str, value: str | None) -> None:
    command, args = ("HDEL", (name,)) if value is None else ("HSET", (name, value))
    await touch(ledger, command, run_id, f"run:{run_id}", *args)


async def aside_until(ledger: Ledger, index: str, run_id: str) -> float:
    score = await touch(ledger, "ZSCORE", run_id, index, run_id)
    return float(score) / 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lost", "many"),
        ("token", "x"),
        ("max_deliveries", None),
        ("max_deliveries", "x"),
        ("queue", None),
        ("seq", "x"),
        ("deadline", "soon"),
    ],
)
async def test_a_lapsed_lease_is_taken_beside_one_whose_record_is_nonsense(
    ledger: Ledger, name: str, value: str | None
) -> None:
    broken, sound = await running(ledger), await running(ledger)
    await forged(ledger, broken.run_id, name, value)
    for lease in (broken, sound):
        await lapse(ledger, lease.run_id)
    found = await reap(ledger)
    assert found.to_publish == (sound.run_id,)
    assert found.counts["aside"] == 1
    at = await aside_until(ledger, "leases", broken.run_id)
    assert -60 < at - time.time() - TEN_MINUTES <= 1
    # Listing does not fail either.
    assert sound.run_id in {run.id for run in await newest(ledger)}


async def test_a_delay_ends_beside_one_whose_record_is_nonsense(ledger: Ledger) -> None:
    broken, sound = [await submitted(ledger, delay_ms=1) for _ in range(2)]
    await forged(ledger, broken.id, "priority", None)
    # Redis' clock decides that both are due.
    await wait_until_async(lambda: _due(ledger, sound.id), 20)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["aside"]) == ((sound.id,), 1)


async def _due(ledger: Ledger, run_id: str) -> bool:
    return await ledger.directory.now_ms() / 1000 > await aside_until(ledger, "delayed", run_id)


async def test_a_debt_is_found_beside_one_whose_record_is_nonsense(ledger: Ledger) -> None:
    broken, sound = await running(ledger), await running(ledger)
    await forged(ledger, broken.run_id, "lost", "x")
    for lease in (broken, sound):
        await touch(ledger, "ZADD", lease.run_id, "cleanups", 1, lease.run_id)
    assert (await reap(ledger)).counts["aside"] == 1
    assert await touch(ledger, "ZSCORE", "x", "cleanups", sound.run_id) is None


async def test_a_round_looks_at_a_tenth_as_many_debts_but_at_one_at_least(ledger: Ledger) -> None:
    for limit, found in ((1, 1), (19, 1), (20, 2)):
        for lease in [await running(ledger) for _ in range(3)]:
            await touch(ledger, "ZADD", lease.run_id, "cleanups", 1, lease.run_id)
        await reap(ledger, limit=limit)
        left = await touch(ledger, "ZCARD", "x", "cleanups")
        assert left == 3 - found
        await touch(ledger, "DEL", "x", "cleanups")


async def test_a_canvas_goes_on_beside_one_whose_record_is_nonsense(ledger: Ledger) -> None:
    async def ended() -> Lease:
        lease = await running(ledger, canvas="any")
        await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
        await touch(ledger, "ZADD", lease.run_id, "canvases", 1, lease.run_id)
        return lease

    broken, sound = await ended(), await ended()
    await forged(ledger, broken.run_id, "canvas_tries", "x")
    found = await reap(ledger)
    assert (found.to_publish, found.counts["aside"]) == ((sound.run_id,), 1)


async def test_a_stranded_run_is_found_beside_one_whose_record_is_nonsense(ledger: Ledger) -> None:
    broken, sound = await submitted(ledger), await submitted(ledger)
    await forged(ledger, broken.id, "stranded", "x")
    for new in (broken, sound):
        await touch(ledger, "ZADD", new.id, "ready:celery:0", 1, new.id)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["aside"]) == ((sound.id,), 1)


async def test_an_unpublished_run_is_found_beside_nonsense(ledger: Ledger) -> None:
    broken, sound = await submitted(ledger), await submitted(ledger)
    await forged(ledger, broken.id, "queue", None)
    for new in (broken, sound):
        await touch(ledger, "ZADD", new.id, "unpublished", 1, new.id)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["aside"]) == ((sound.id,), 1)


async def test_a_server_that_refuses_sets_no_run_aside(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
        try:
            impatient = Ledger(settings_for(valkey, redis_timeout_seconds=0.3), name="test")
            with pytest.raises(ConnectionError, match="memory"):
                await reap(impatient)
            await impatient.close()
        finally:
            client.config_set("maxmemory", "0")
    assert (await reap(ledger)).to_publish == (lease.run_id,)


async def test_an_unreadable_card_hides_no_other(ledger: Ledger) -> None:
    await touch(ledger, "HSET", "x", "cards", "odd|1", "{", "odd|2", '{"name": 1}')
    far = await ledger.directory.now_ms() + 60_000
    await touch(ledger, "ZADD", "x", "serving", far, "odd|1|w", far, "odd|2|w")
    assert await ledger.directory.agents() == []
    assert await ledger.directory.catalogue() == []


async def test_a_run_with_a_strange_time_of_publication_starts_and_hides_none(
    ledger: Ledger,
) -> None:
    broken, sound = await submitted(ledger), await submitted(ledger)
    await forged(ledger, broken.id, "published", "x")
    assert (await claimed(ledger, broken.id)).waited_ms == 0
    await touch(ledger, "HSET", "x", "watermark", "celery:0", "x")
    await touch(ledger, "ZADD", sound.id, "ready:celery:0", 1, sound.id)
    assert (await reap(ledger)).to_publish == (sound.id,)


async def test_an_overdue_run_ends_beside_one_whose_token_is_nonsense(ledger: Ledger) -> None:
    broken, sound = [await submitted(ledger, deadline_ms=1) for _ in range(2)]
    await forged(ledger, broken.id, "token", "x")
    assert [run_id for run_id, *_ in (await reap(ledger)).to_end] == [sound.id]


async def test_a_wait_expires_beside_one_whose_record_is_nonsense(ledger: Ledger) -> None:
    broken, sound = await running(ledger), await running(ledger)
    for lease in (broken, sound):
        await parked(ledger, lease, expires_ms=4 * 10**12)
        await let_expire(ledger, lease.run_id)
    await forged(ledger, broken.run_id, "queue", None)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["aside"]) == ((sound.run_id,), 1)


async def test_events_stay_readable_whatever_a_record_says_of_waits(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    await forged(ledger, lease.run_id, "waiting", '"]},ask{,"TIMER')
    lease = await claimed(ledger, lease.run_id)
    status = await ledger.queries.status(lease.run_id)
    assert (status.state, status.waits) == ("waiting", ())
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    events = await read_all(ledger, lease.run_id)
    assert events[3].payload == {"state": "waiting", "waits": ["ask"]}


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"nonsense",
        b"answered",
        b"answered a b\n{",
        b"\n\n",
        b"answered 0 1\n[]\n1",
        b"answered 0 1\n5\n1",
        b"\xff 1",
    ],
)
async def test_an_unreadable_decision_has_no_value(ledger: Ledger, stored: bytes) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease)
    await touch(ledger, "HSET", run_id, f"decisions:{run_id}", "1", stored)
    assert await ledger.waits.decision(run_id, "1") == Decision(WaitOutcome.ANSWERED, b"")
    (wait,) = (await ledger.journals.load(run_id)).waits
    assert wait.decision == Decision(WaitOutcome.ANSWERED, b"")
    found = await ledger.waits.decide(run_id, "1", YES)
    assert found.status is DecideStatus.CONFLICT
    write = await ledger.waits.close(lease, 3, "1", entry("q1"), {})
    assert write.result is WriteResult.RECORDED
