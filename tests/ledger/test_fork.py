"""Forks: a run begins with entries of another one, copied once, under its lease."""

import pytest

from skillfleet.contracts import EntryKind
from skillfleet.errors import UnknownRunError
from skillfleet.ports.journal import EntryFailure
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from tests.ledger.durable import entry, recorded
from tests.ledger.helpers import DONE, claimed, lapse, reap, running, submitted, touch

LARGE = b'"' + b"x" * 3_000_000 + b'"'
FAILURE = EntryFailure("ValueError", "step_failed", "no")


async def source(ledger: Ledger) -> Lease:
    """A run that has recorded a small value, a large one, a failure, and a call."""
    lease = await running(ledger)
    await ledger.journals.write_value(lease, "d1", LARGE)
    await recorded(
        ledger,
        lease,
        entry("s1", 1, b"[1]"),
        entry("s2", 2, None, digest="d1", size=len(LARGE)),
        entry("s3", 3, None, failure=FAILURE),
        entry("s4", 4, b'"after"', kind=EntryKind.CALL),
    )
    return lease


async def numbers(ledger: Ledger, run_id: str) -> list[int]:
    return [step.number for step in await ledger.journals.list(run_id)]


@pytest.mark.parametrize(
    ("before", "expected"),
    [(None, [1, 2, 4]), (1, []), (3, [1, 2]), (4, [1, 2, 3]), (9, [1, 2, 3, 4])],
)
async def test_entries_before_a_number_are_copied_or_all_that_did_not_fail(
    ledger: Ledger, before: int | None, expected: list[int]
) -> None:
    former, lease = await source(ledger), await running(ledger)
    copied = await ledger.journals.copy(lease, former.run_id, before)
    assert copied is WriteResult.RECORDED
    assert await numbers(ledger, lease.run_id) == expected
    assert await numbers(ledger, former.run_id) == [1, 2, 3, 4]
    stored = await ledger.journals.load(lease.run_id)
    assert (stored.emitted, stored.waits) == ({}, [])
    by_number = {each.number: each for each in stored.entries}
    if 2 in by_number:
        assert await ledger.journals.value(lease.run_id, by_number[2]) == LARGE


async def test_entries_are_copied_once_and_later_attempts_know_them(ledger: Ledger) -> None:
    former, lease = await source(ledger), await running(ledger)
    await ledger.journals.copy(lease, former.run_id, 2)
    await recorded(ledger, former, entry("s0", 0))
    assert await ledger.journals.copy(lease, former.run_id, 2) is WriteResult.RECORDED
    assert await numbers(ledger, lease.run_id) == [1]
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert (await claimed(ledger, lease.run_id)).has_journal


async def test_a_message_before_the_first_attempt_keeps_nothing_from_being_copied(
    ledger: Ledger,
) -> None:
    former = await source(ledger)
    new = await submitted(ledger)
    await ledger.waits.send(new.id, b'{"by":"","token":""}\n1')
    lease = await claimed(ledger, new.id)
    await ledger.journals.copy(lease, former.run_id, 2)
    assert await numbers(ledger, lease.run_id) == [1]


async def test_a_stale_attempt_copies_nothing(ledger: Ledger) -> None:
    former, lease = await source(ledger), await running(ledger)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    await claimed(ledger, lease.run_id, "w2")
    assert await ledger.journals.copy(lease, former.run_id, None) is WriteResult.LOST
    assert await numbers(ledger, lease.run_id) == []


async def test_a_run_that_is_gone_cannot_be_forked(ledger: Ledger) -> None:
    lease = await running(ledger)
    with pytest.raises(UnknownRunError, match="has expired"):
        await ledger.journals.copy(lease, "gone", None)


async def test_a_fork_keeps_its_values_when_the_other_run_expires_and_none_after_its_own_end(
    ledger: Ledger,
) -> None:
    former, lease = await source(ledger), await running(ledger)
    await ledger.leases.settle(former, "librarian.survey", former.seq, DONE)
    await ledger.journals.copy(lease, former.run_id, 3)
    for key in (f"blob:{lease.run_id}:d1", f"journal:{lease.run_id}"):
        assert await touch(ledger, "PTTL", lease.run_id, key) == -1
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    for key in (f"blob:{lease.run_id}:d1", f"journal:{lease.run_id}"):
        assert await touch(ledger, "PTTL", lease.run_id, key) > 0
