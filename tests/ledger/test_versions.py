"""Runs with a journal, which are left to workers of the version that has recorded it."""

from collections.abc import Sequence

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Claim, ClaimStatus, Lease
from tests.ledger.durable import decided, entry, field, parked, recorded
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    lapse,
    reap,
    running,
    submitted,
    touch,
)

PATIENCE_MS = 60_000
OTHER = ("2", "3")


async def claim(ledger: Ledger, run_id: str, versions: Sequence[str] = OTHER) -> Claim:
    return await ledger.leases.claim(run_id, "w2", "c2", LONG_MS, None, versions=versions)


async def resumed(ledger: Ledger) -> Lease:
    """Return the former lease of a queued run that version 1 has recorded something for."""
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    await parked(ledger, lease)
    await decided(ledger, lease.run_id)
    await touch(ledger, "ZREM", lease.run_id, "unpublished", lease.run_id)
    return lease


async def deferred(ledger: Ledger, run_id: str, again_ms: int = LONG_MS) -> int:
    """Have a run left to another version; return when its message comes again."""
    found = await claim(ledger, run_id)
    assert found.status is ClaimStatus.OTHER_VERSION
    assert await ledger.leases.defer(run_id, found.token, again_ms, PATIENCE_MS)
    return int(await touch(ledger, "ZSCORE", run_id, "delayed", run_id))


async def come_due(ledger: Ledger, run_id: str) -> None:
    """Let the delay of a run be over, and have the reaper publish it."""
    await touch(ledger, "ZADD", run_id, "delayed", "XX", 1, run_id)
    assert run_id in (await reap(ledger)).to_publish


async def test_a_journal_is_not_continued_by_a_version_that_cannot(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    before = await touch(ledger, "HGETALL", lease.run_id, f"run:{lease.run_id}")
    found = await claim(ledger, lease.run_id)
    assert (found.status, found.token, found.detail, found.lease) == (
        ClaimStatus.OTHER_VERSION,
        lease.token + 1,
        "1",
        None,
    )
    assert await touch(ledger, "HGETALL", lease.run_id, f"run:{lease.run_id}") == before


@pytest.mark.parametrize("versions", [(), ("1",), ("2", "1"), ("1", "2")])
async def test_a_journal_is_continued_by_a_version_that_can(
    ledger: Ledger, versions: tuple[str, ...]
) -> None:
    lease = await resumed(ledger)
    found = await claim(ledger, lease.run_id, versions)
    assert found.status is ClaimStatus.CLAIMED
    assert found.lease is not None
    assert found.lease.version == "1"


async def test_a_part_of_a_version_is_another_one(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    for versions in (("1.0",), ("11",), ("0", "21")):
        assert (await claim(ledger, lease.run_id, versions)).status is ClaimStatus.OTHER_VERSION


async def test_a_run_without_a_journal_is_any_versions(ledger: Ledger) -> None:
    new = await submitted(ledger)
    assert (await claim(ledger, new.id)).status is ClaimStatus.CLAIMED


async def test_a_run_that_is_left_to_others_comes_again(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    run_id = lease.run_id
    await touch(ledger, "ZADD", run_id, "unpublished", 1, run_id)
    before = await ledger.directory.now_ms()
    due = await deferred(ledger, run_id)
    assert before + LONG_MS <= due <= await ledger.directory.now_ms() + LONG_MS
    for name in ("due", "published"):
        assert await field(ledger, run_id, name) == str(due).encode()
    status = await ledger.queries.status(run_id)
    assert (status.state, status.attempt) == (RunState.QUEUED, 1)
    assert [attempt.outcome for attempt in status.attempts] == ["parked"]
    for gone in ("released", "lost"):
        assert await field(ledger, run_id, gone) is None
    assert await touch(ledger, "ZSCORE", run_id, "ready:celery:0", run_id) is None
    assert await touch(ledger, "ZSCORE", run_id, "unpublished", run_id) is None
    # Its message, should there be another one, is dropped until then, for any version.
    assert (await claim(ledger, run_id, ("1",))).status is ClaimStatus.EARLY
    assert run_id not in (await reap(ledger)).to_publish
    await come_due(ledger, run_id)
    assert await field(ledger, run_id, "due") is None
    assert (await claim(ledger, run_id, ("1",))).status is ClaimStatus.CLAIMED


async def test_a_run_that_is_left_to_others_is_one_delay_of_its_queue(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    await deferred(ledger, lease.run_id, 0)
    await deferred(ledger, lease.run_id, 0)
    assert await touch(ledger, "HGETALL", lease.run_id, "delays") == [b"celery", b"1"]
    await come_due(ledger, lease.run_id)
    assert await touch(ledger, "HGETALL", lease.run_id, "delays") == []


async def test_patience_counts_from_the_first_time(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    run_id = lease.run_id
    await deferred(ledger, run_id, 0)
    first = await field(ledger, run_id, "deferred")
    assert first is not None
    await come_due(ledger, run_id)
    await deferred(ledger, run_id, 0)
    assert await field(ledger, run_id, "deferred") == first
    token, since = first.split()
    began = b"%s %d" % (token, int(since) - PATIENCE_MS)
    await touch(ledger, "HSET", run_id, f"run:{run_id}", "deferred", began)
    await come_due(ledger, run_id)
    found = await claim(ledger, run_id)
    assert not await ledger.leases.defer(run_id, found.token, LONG_MS, PATIENCE_MS)
    assert await touch(ledger, "ZSCORE", run_id, "delayed", run_id) is None
    assert await touch(ledger, "ZSCORE", run_id, "ready:celery:0", run_id) is not None
    assert (await claim(ledger, run_id, ())).status is ClaimStatus.CLAIMED


async def test_patience_begins_anew_after_an_attempt(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    run_id = lease.run_id
    await deferred(ledger, run_id, 0)
    await touch(ledger, "HSET", run_id, f"run:{run_id}", "deferred", f"{lease.token + 1} 1")
    await come_due(ledger, run_id)
    assert (await claim(ledger, run_id, ())).status is ClaimStatus.CLAIMED
    await lapse(ledger, run_id)
    await reap(ledger)
    await deferred(ledger, run_id)


async def test_only_what_the_claim_found_is_left_to_others(ledger: Ledger) -> None:
    lease = await resumed(ledger)
    run_id, token = lease.run_id, lease.token + 1
    for wrong in (token - 1, token + 1):
        assert not await ledger.leases.defer(run_id, wrong, LONG_MS, PATIENCE_MS)
    await touch(ledger, "HSET", run_id, f"run:{run_id}", "held", "unserved:a.b")
    assert not await ledger.leases.defer(run_id, token, LONG_MS, PATIENCE_MS)
    await touch(ledger, "HDEL", run_id, f"run:{run_id}", "held")
    await ledger.leases.end_unclaimed(run_id, "librarian.survey", DONE)
    assert not await ledger.leases.defer(run_id, token, LONG_MS, PATIENCE_MS)
    assert not await ledger.leases.defer("unknown", 1, LONG_MS, PATIENCE_MS)
    assert await touch(ledger, "ZSCORE", run_id, "delayed", run_id) is None
    executing = await running(ledger)
    assert not await ledger.leases.defer(executing.run_id, executing.token, LONG_MS, PATIENCE_MS)
