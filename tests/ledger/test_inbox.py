"""The inbox: messages in order, each received once across attempts, bounded."""

import pytest

from skillfleet.contracts import EntryKind, WaitKind
from skillfleet.errors import InboxFullError, UnknownRunError
from skillfleet.ports.journal import Entry, WaitSpec
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import MOST_INBOX_BYTES, MOST_MESSAGES, SendResult, WaitWrite
from tests.ledger.durable import ask, entry, field, last, message, opened, parked
from tests.ledger.helpers import DONE, claimed, read_all, running, submitted, touch

TASK = "librarian.survey"


def received(identity: str = "m1", number: int = 1) -> Entry:
    return entry(identity, number, None, kind=EntryKind.MESSAGE)


async def receive(
    ledger: Ledger, lease: Lease, identity: str = "m1", wait_id: str = ""
) -> tuple[WaitWrite, bytes | None]:
    seq = await last(ledger, lease.run_id)
    return await ledger.waits.receive(lease, seq, received(identity), wait_id, {})


async def test_messages_are_received_in_order_and_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    values = [b'{"n": %d,  "text": "\\n"}' % number for number in range(3)]
    for value in values:
        assert await ledger.waits.send(run_id, message(value)) == SendResult(sent=True)
    write = WaitWrite(WriteResult.RECORDED, 1)
    assert await receive(ledger, lease, "m1") == (write, values[0])
    assert await receive(ledger, lease, "m2") == (write, values[1])
    await ledger.leases.requeue(lease, 1, outcome="retry", reason="x")
    lease = await claimed(ledger, run_id)
    assert lease.has_journal
    assert (await receive(ledger, lease, "m1"))[1] == values[0]
    assert (await receive(ledger, lease, "m3"))[1] == values[2]
    write = WaitWrite(WriteResult.EMPTY, lease.seq)
    assert await receive(ledger, lease, "m4") == (write, None)
    entries = (await ledger.journals.load(run_id)).entries
    assert sorted(each.value or b"" for each in entries) == values
    assert {each.kind for each in entries} == {EntryKind.MESSAGE}
    assert await field(ledger, run_id, "inbox_bytes") == b"0"


async def test_a_message_may_come_before_the_run_starts(ledger: Ledger) -> None:
    new = await submitted(ledger)
    await ledger.waits.send(new.id, message())
    lease = await claimed(ledger, new.id)
    assert lease.has_journal
    assert (await receive(ledger, lease))[1] == b'"hello"'


async def test_a_message_ends_the_wait_for_it(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    spec = WaitSpec("m1", WaitKind.MESSAGE, name="inbox")
    write = await ledger.waits.open(lease, 1, spec, 4 * 10**12)
    await ledger.waits.send(run_id, message())
    closed = await ledger.waits.receive(lease, write.seq, received(), write.wait_id, {"": 3})
    assert closed == (WaitWrite(WriteResult.RECORDED, 5), b'"hello"')
    # The answer was lost: the same call comes again.
    again = await ledger.waits.receive(lease, write.seq, received(), write.wait_id, {"": 3})
    assert again == closed
    journal = await ledger.journals.load(run_id)
    assert (journal.waits, journal.emitted) == ([], {"": 3})
    assert await touch(ledger, "ZCARD", run_id, "timers") == 0
    await ledger.leases.settle(lease, TASK, 5, DONE)
    kinds = [event.kind for event in await read_all(ledger, run_id)]
    assert kinds == ["state", "wait", "state", "wait_ended", "state", "state"]


async def test_no_event_may_be_missing_before_a_message(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.waits.send(lease.run_id, message())
    for seq in (0, 2):
        write = await ledger.waits.receive(lease, seq, received(), "", {})
        assert write == (WaitWrite(WriteResult.GAP, 1), None)
    assert await ledger.waits.next_message(lease.run_id) == message()


async def test_an_inbox_has_a_thousand_messages_at_most(ledger: Ledger) -> None:
    lease = await running(ledger)
    for _ in range(MOST_MESSAGES):
        await ledger.waits.send(lease.run_id, message(b"1"))
    with pytest.raises(InboxFullError, match="1000 unread messages"):
        await ledger.waits.send(lease.run_id, message(b"1"))
    await receive(ledger, lease)
    await ledger.waits.send(lease.run_id, message(b"1"))


async def test_an_inbox_has_a_mebibyte_at_most(ledger: Ledger) -> None:
    lease = await running(ledger)
    half, small = b"x" * (MOST_INBOX_BYTES // 2), b"y"
    await ledger.waits.send(lease.run_id, half)
    await ledger.waits.send(lease.run_id, half)
    with pytest.raises(InboxFullError, match="1048576 bytes"):
        await ledger.waits.send(lease.run_id, small)
    await ledger.waits.drop_message(lease, half)
    await ledger.waits.send(lease.run_id, half)
    with pytest.raises(InboxFullError):
        await ledger.waits.send(lease.run_id, small)


async def test_a_message_that_comes_again_is_sent_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    args = (message(), "0123456789abcdef", MOST_MESSAGES, MOST_INBOX_BYTES)
    for _ in range(2):
        assert await ledger.waits._run("send", run_id, *args) == [b"sent", b""]
    assert await touch(ledger, "LLEN", run_id, f"inbox:{run_id}") == 1
    # Also when the run has ended meanwhile.
    await ledger.leases.settle(lease, TASK, 1, DONE)
    assert await ledger.waits._run("send", run_id, *args) == [b"sent", b""]
    assert await ledger.waits.send(run_id, message()) == SendResult(sent=False)
    with pytest.raises(UnknownRunError):
        await ledger.waits.send("unknown", message())


async def test_a_message_is_looked_at_before_it_is_received(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    assert await ledger.waits.next_message(run_id) is None
    bad, good = message(b"1"), message(b"2")
    for each in (bad, bad, good):
        await ledger.waits.send(run_id, each)
    assert await ledger.waits.next_message(run_id) == bad
    assert await ledger.waits.drop_message(lease, good) is WriteResult.RECORDED
    assert await ledger.waits.next_message(run_id) == bad
    for _ in range(2):
        assert await ledger.waits.drop_message(lease, bad) is WriteResult.RECORDED
    assert await ledger.waits.drop_message(lease, bad) is WriteResult.RECORDED
    assert await ledger.waits.next_message(run_id) == good
    assert await field(ledger, run_id, "inbox_bytes") == b"%d" % len(good)


async def test_a_message_without_a_sender_is_null(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.waits.send(lease.run_id, b"nonsense")
    assert (await receive(ledger, lease))[1] == b"null"


async def test_a_message_wakes_a_run_that_waits_for_one(ledger: Ledger) -> None:
    lease, other = await running(ledger), await running(ledger)
    await parked(ledger, lease, WaitSpec("m", WaitKind.MESSAGE))
    await parked(ledger, other, ask())
    assert await ledger.waits.send(lease.run_id, message()) == SendResult(sent=True, woken=True)
    assert await ledger.waits.send(lease.run_id, message()) == SendResult(sent=True)
    assert await ledger.waits.send(other.run_id, message()) == SendResult(sent=True)
    lease = await claimed(ledger, lease.run_id)
    assert (await receive(ledger, lease, wait_id="1"))[1] == b'"hello"'


async def test_a_running_run_is_not_woken_by_a_message(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease, WaitSpec("m", WaitKind.MESSAGE))
    assert await ledger.waits.send(lease.run_id, message()) == SendResult(sent=True)
