"""The journal: entries once and under the lease, large values, counts of events, void events."""

import hashlib

import pytest

from skillfleet.contracts import EntryKind
from skillfleet.errors import UnknownRunError
from skillfleet.ports.journal import EntryFailure
from skillfleet_ledger import Ledger
from skillfleet_ledger.chunks import ABANDONED_MS, CHUNK_BYTES
from skillfleet_ledger.runs.records import Lease, RunLimits, WriteResult
from tests.ledger.durable import entry, field, last, recorded, step_event
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    event,
    lapse,
    read_all,
    reap,
    running,
    touch,
)
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
KINDS_OF_KEYS = ("journal", "decisions", "inbox", "emitted", "unfinished", "values", "texts")


async def test_entries_come_back_as_they_were_recorded(ledger: Ledger) -> None:
    lease = await running(ledger)
    failure = EntryFailure("ValueError", "bad_value", "no: \n ä", "ada", retryable=True)
    entries = [
        entry("pay#1", 1, b'{"a": 1.0,  "n": 12345678901234567890123, "s": "\\u00e4"}'),
        entry("k\ney ä", 2, None, failure=failure, tries=3, kind=EntryKind.CALL, name="näme"),
        entry("null", 3, b"null", attempt=7),
    ]
    for each in entries:
        await recorded(ledger, lease, each)
    journal = await ledger.journals.load(lease.run_id)
    assert journal.entries == entries
    assert (journal.emitted, journal.waits) == ({}, [])
    steps = await ledger.journals.list(lease.run_id)
    assert [(step.number, step.name, step.outcome) for step in steps] == [
        (1, "pay#1", "succeeded"),
        (2, "näme", "failed"),
        (3, "null", "succeeded"),
    ]
    assert (steps[1].code, steps[1].message, steps[1].tries) == ("bad_value", failure.message, 3)
    assert (steps[0].size_bytes, steps[0].duration_seconds) == (entries[0].size, 0.005)
    assert steps[0].started_at.timestamp() == 1_795_000_000


async def test_an_entry_is_recorded_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry(value=b"1"), entry(value=b"2"))
    assert (await ledger.journals.load(lease.run_id)).entries == [entry(value=b"1")]


async def test_a_large_journal_comes_back_in_order_and_with_its_size(ledger: Ledger) -> None:
    lease = await running(ledger)
    entries = [entry(f"step {n}", n, b'"%s"' % (b"x" * 500)) for n in range(1, 701)]
    for each in reversed(entries):
        await recorded(ledger, lease, each)
    journal = await ledger.journals.load(lease.run_id)
    assert journal.entries == entries
    results = sum(each.size for each in entries)
    assert results < journal.size <= 1.5 * results
    steps = await ledger.journals.list(lease.run_id)
    assert [step.number for step in steps] == list(range(1, 701))


async def test_a_run_without_steps_has_no_journal(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.streams.append(lease, lease.seq + 1, [event()])
    assert not lease.has_journal
    await ledger.leases.requeue(lease, lease.seq + 1, outcome="retry", reason="x")
    assert not (await claimed(ledger, lease.run_id)).has_journal
    assert await field(ledger, lease.run_id, "journal") is None


async def test_the_next_attempt_learns_that_there_is_a_journal(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    claim = await ledger.leases.claim(lease.run_id, "w1", "same", LONG_MS, None)
    again = await ledger.leases.claim(lease.run_id, "w1", "same", LONG_MS, None)
    assert [each.lease.has_journal for each in (claim, again) if each.lease] == [True, True]


async def test_a_step_costs_two_commands_besides_its_script(
    ledger: Ledger, valkey: ValkeyServer
) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    with valkey.client() as client:
        client.config_resetstat()
        await ledger.journals.record(lease, entry("s2", 2), {}, version="", clears_step=False)
        stats = client.info("commandstats")
    called = {name: stats[name]["calls"] for name in stats if "config" not in name}
    called.pop("cmdstat_info", None)
    assert called == {"cmdstat_evalsha": 1, "cmdstat_hmget": 1, "cmdstat_hsetnx": 1}


# --- large values -----------------------------------------------------------------------------


async def write_large(ledger: Ledger, lease: Lease, value: bytes, identity: str = "big") -> str:
    digest = hashlib.sha256(value).hexdigest()
    assert await ledger.journals.write_value(lease, digest, value) is WriteResult.RECORDED
    await recorded(ledger, lease, entry(identity, 1, None, size=len(value), digest=digest))
    return digest


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 9 * CHUNK_BYTES])
async def test_a_large_value_is_kept_apart(ledger: Ledger, size: int) -> None:
    lease = await running(ledger)
    value = b"x" * size
    digest = await write_large(ledger, lease, value)
    journal = await ledger.journals.load(lease.run_id)
    assert await ledger.journals.value(lease.run_id, journal.entries[0]) == value
    assert journal.size > size
    blob = f"blob:{lease.run_id}:{digest}"
    assert await touch(ledger, "PTTL", lease.run_id, blob) == -1
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert 0 < await touch(ledger, "PTTL", lease.run_id, blob) <= LONG_MS


async def test_a_value_within_its_entry_needs_no_reading(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.journals.value(lease.run_id, entry(value=b"7")) == b"7"


async def test_equal_large_values_are_stored_once(ledger: Ledger, valkey: ValkeyServer) -> None:
    lease = await running(ledger)
    value = b"x" * (3 * CHUNK_BYTES)
    digest = await write_large(ledger, lease, value, "first")
    blob = f"{ledger.keys.prefix(lease.run_id)}blob:{lease.run_id}:{digest}"
    with valkey.client() as client:
        client.hdel(blob, "1")
        await write_large(ledger, lease, value, "second")
        assert client.hlen(blob) == 2
        client.hset(blob, "1", value[:CHUNK_BYTES])
    journal = await ledger.journals.load(lease.run_id)
    assert {each.digest for each in journal.entries} == {digest}
    assert len(value) < journal.size < 2 * len(value)
    for each in journal.entries:
        assert await ledger.journals.value(lease.run_id, each) == value


async def test_a_value_that_is_never_recorded_is_forgotten(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.journals.write_value(lease, "d", b"x") is WriteResult.RECORDED
    left = await touch(ledger, "PTTL", lease.run_id, f"blob:{lease.run_id}:d")
    assert 0 < left <= ABANDONED_MS
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert await ledger.journals.write_value(lease, "e", b"x") is WriteResult.LOST


async def test_a_value_that_has_expired_is_a_clear_error(ledger: Ledger) -> None:
    lease = await running(ledger)
    with pytest.raises(UnknownRunError, match="expired"):
        await ledger.journals.value(lease.run_id, entry(value=None, size=5, digest="d"))


# --- counts of events, and void ones ----------------------------------------------------------


async def test_counts_of_events_never_go_down(ledger: Ledger) -> None:
    lease = await running(ledger)
    events = [step_event()] * 3
    assert await ledger.streams.append(lease, 2, events, emitted={"": 3, "a": 2}) == (4, "")
    assert await ledger.streams.append(lease, 2, events, emitted={"": 3, "a": 9}) == (4, "")
    assert (await ledger.journals.load(lease.run_id)).emitted == {"": 3, "a": 2}
    for identity, count in (("s1", 1), ("s2", 4), ("s3", 12), ("s4", 11)):
        await ledger.journals.record(
            lease, entry(identity), {"a": count}, version="1", clears_step=False
        )
    assert (await ledger.journals.load(lease.run_id)).emitted == {"": 3, "a": 12}


async def test_counts_come_without_events_before_the_first_step(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.streams.append(lease, 2, [event()] * 2)
    assert await field(ledger, lease.run_id, "journal") is None
    assert await ledger.streams.append(lease, 4, (), emitted={"": 2}) == (3, "")
    assert await last(ledger, lease.run_id) == 3
    again = await next_attempt(ledger, lease.run_id, lease)
    assert again.has_journal
    assert (await ledger.journals.load(lease.run_id)).emitted == {"": 2}
    assert await ledger.streams.append(lease, 4, (), emitted={"": 9}) is None
    # Events that are missing are not counted.
    seq = await last(ledger, lease.run_id)
    assert await ledger.streams.append(again, seq + 2, (), emitted={"": 9}) == (seq, "")
    assert (await ledger.journals.load(lease.run_id)).emitted == {"": 2}


async def test_a_run_without_a_stream_gets_none_by_counts(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await ledger.streams.append(lease, 2, (), emitted={}) == (1, "")
    assert await field(ledger, lease.run_id, "stream") is None
    assert await field(ledger, lease.run_id, "kept") != b""
    assert await field(ledger, lease.run_id, "journal") == b"1"


async def next_attempt(ledger: Ledger, run_id: str, lease: Lease) -> Lease:
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (run_id,)
    return await claimed(ledger, run_id)


async def void_events(ledger: Ledger, run_id: str) -> list[tuple[str, str, str]]:
    events = [e for e in await read_all(ledger, run_id) if e.kind == "superseded"]
    return [(e.payload["from"], e.payload["to"], e.payload["step"]) for e in events]


async def test_events_of_a_step_that_is_not_recorded_are_void(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=9)
    run_id = lease.run_id
    first = [step_event(), step_event("done"), step_event('bro"ken'), step_event("done")]
    await ledger.streams.append(lease, 2, first, emitted={})
    await ledger.streams.append(lease, 6, [step_event('bro"ken'), step_event("last")], emitted={})
    await ledger.journals.record(lease, entry("done"), {}, version="1", clears_step=True)
    unfinished = await touch(ledger, "HGETALL", run_id, f"unfinished:{run_id}")
    assert unfinished == [b'bro"ken', b"4", b"last", b"7"]
    lease = await next_attempt(ledger, run_id, lease)
    # The events of the first attempt and of its loss, the void ones, the start of this attempt.
    assert lease.seq == 11
    lease = await next_attempt(ledger, run_id, lease)
    assert lease.seq == 13
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert sorted(await void_events(ledger, run_id)) == [
        ("4-0", "8-0", 'bro"ken'),
        ("7-0", "8-0", "last"),
    ]
    events = await read_all(ledger, run_id)
    steps = [event.step for event in events if event.kind == "text_delta"]
    assert steps == [None, "done", 'bro"ken', "done", 'bro"ken', "last"]
    assert [event.attempt for event in events if event.kind == "superseded"] == [2, 2]


async def test_events_of_a_failed_step_are_valid_until_it_is_dropped(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=9)
    run_id = lease.run_id
    await ledger.streams.append(lease, 2, [step_event("s1")], emitted={"s1": 4})
    failed = entry(value=None, failure=EntryFailure("E", "c", "m"))
    await ledger.journals.record(lease, failed, {}, version="1", clears_step=True)
    lease = await next_attempt(ledger, run_id, lease)
    seq = lease.seq
    await ledger.leases.requeue(lease, seq, outcome="retry", reason="x", dropped=["s1", "other"])
    journal = await ledger.journals.load(run_id)
    assert (journal.entries, journal.emitted) == ([], {})
    lease = await claimed(ledger, run_id)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert await void_events(ledger, run_id) == [("2-0", f"{seq + 1}-0", "s1")]


async def test_events_of_a_step_in_a_run_without_a_journal_are_void_as_well(
    ledger: Ledger,
) -> None:
    lease = await running(ledger)
    await ledger.streams.append(lease, 2, [step_event("s1")], emitted={})
    lease = await next_attempt(ledger, lease.run_id, lease)
    assert lease.has_journal
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert await void_events(ledger, lease.run_id) == [("2-0", "3-0", "s1")]


# --- copies -----------------------------------------------------------------------------------


async def test_entries_of_another_run_are_copied(ledger: Ledger) -> None:
    lease, other = await running(ledger), await running(ledger)
    run_id = lease.run_id
    value = b"x" * (2 * CHUNK_BYTES)
    digest = hashlib.sha256(value).hexdigest()
    entries = [entry(f"s{number}", number) for number in range(2, 40)]
    await recorded(ledger, other, *entries)
    await ledger.journals.write_value(other, digest, value)
    large = entry("large", 1, None, size=len(value), digest=digest)
    await recorded(ledger, other, large)
    await ledger.streams.append(other, 2, [step_event("s9")], emitted={"s1": 3})
    await recorded(ledger, lease, own := entry("s3", 1, b'"own"'))
    await ledger.leases.settle(other, TASK, 2, DONE)
    for _ in range(2):
        copied = await ledger.journals.copy(lease, other.run_id, 30)
        assert copied is WriteResult.RECORDED
    journal = await ledger.journals.load(run_id)
    assert {each.identity: each for each in journal.entries} == {
        each.identity: each for each in (large, *entries[:28], own)
    }
    assert journal.emitted == {}
    assert await ledger.journals.value(run_id, large) == value
    assert await touch(ledger, "PTTL", run_id, f"blob:{run_id}:{digest}") == -1
    assert await touch(ledger, "SMEMBERS", run_id, f"values:{run_id}") == [digest.encode()]
    # The other one is as it was.
    assert 0 < await touch(ledger, "PTTL", run_id, f"blob:{other.run_id}:{digest}") <= LONG_MS
    await lapse(ledger, run_id)
    await reap(ledger)
    assert await ledger.journals.copy(lease, other.run_id, 30) is WriteResult.LOST
    assert (await claimed(ledger, run_id)).has_journal


async def test_a_copied_journal_is_the_runs_own(ledger: Ledger) -> None:
    lease, other = await running(ledger), await running(ledger)
    await recorded(ledger, other, entry())
    await ledger.journals.copy(lease, other.run_id, 2)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    assert (await claimed(ledger, lease.run_id)).has_journal
    # What was given to another run, or is gone, is not copied.
    assert (
        await ledger.journals._run(
            "copy_entries", other.run_id, other.token, lease.run_id, "", "unknown", ""
        )
        == 1
    )
    assert [each.identity for each in (await ledger.journals.load(other.run_id)).entries] == ["s1"]


# --- the end ----------------------------------------------------------------------------------


async def test_all_that_is_recorded_expires_with_the_run(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await ledger.streams.append(lease, 2, [step_event("s1")], emitted={"": 1})
    await write_large(ledger, lease, b"x")
    await ledger.waits.send(run_id, b"{}\n1")
    await touch(ledger, "HSET", run_id, f"decisions:{run_id}", "1", "answered 0 0")
    await touch(ledger, "ZADD", run_id, f"texts:{run_id}", 1, "a text")
    await ledger.leases.settle(lease, TASK, await last(ledger, run_id), DONE)
    for kind in KINDS_OF_KEYS:
        left = await touch(ledger, "PTTL", run_id, f"{kind}:{run_id}")
        assert 0 < left <= LONG_MS, kind


# --- lost attempts ----------------------------------------------------------------------------


async def lose(ledger: Ledger, lease: Lease, *, progress: bool) -> Lease | None:
    """Lose an attempt and return the next one; None when the run is dead."""
    if progress:
        number = await touch(ledger, "HLEN", lease.run_id, f"journal:{lease.run_id}")
        await recorded(ledger, lease, entry(f"s{number}", number + 1))
    await lapse(ledger, lease.run_id)
    found = await reap(ledger)
    if [why for _, _, why in found.to_end] == ["dead"]:
        return None
    assert found.to_publish == (lease.run_id,)
    await ledger.maintenance.published(0, found.to_publish)
    return await claimed(ledger, lease.run_id)


async def losses(ledger: Ledger, lease: Lease, *, progress: bool) -> int:
    """Lose attempts until the run is dead, and return how many."""
    count, left = 1, await lose(ledger, lease, progress=progress)
    while left:
        count, left = count + 1, await lose(ledger, left, progress=progress)
    return count


async def test_a_lost_attempt_that_has_recorded_something_does_not_count(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=2)
    for _ in range(5):
        found = await lose(ledger, lease, progress=True)
        assert found is not None
        lease = found
    assert await field(ledger, lease.run_id, "lost_free") == b"5"
    # What an earlier attempt has recorded is no progress of this one.
    assert await losses(ledger, lease, progress=False) == 2


async def test_ten_times_as_many_attempts_may_be_lost_at_most(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=2)
    assert await losses(ledger, lease, progress=True) == 20


async def test_a_skill_that_says_how_often_it_may_be_lost_is_believed(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=5)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    limits = RunLimits(max_deliveries=2)
    claim = await ledger.leases.claim(lease.run_id, "w1", "c", LONG_MS, None, limits)
    assert claim.lease
    assert await losses(ledger, claim.lease, progress=True) == 2


async def test_a_run_without_a_journal_counts_every_loss(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=3)
    assert await losses(ledger, lease, progress=False) == 3
