"""The runs of a session execute one at a time, in order, and share a state."""

from collections.abc import Sequence

import pytest

from skillfleet.contracts import EntryKind, RunState, WaitKind
from skillfleet.errors import LimitExceededError, SessionBusyError, UnknownSessionError
from skillfleet.ports.journal import WaitSpec
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_ledger.runs.records import ClaimStatus, Lease, Submission, WriteResult
from skillfleet_ledger.runs.sessions import session_name
from skillfleet_ledger.runs.submissions import SessionMovedError
from skillfleet_ledger.runs.waits import MOST_INBOX_BYTES
from tests.ledger.durable import entry, last, opened
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    lapse,
    newest,
    reap,
    settings_for,
    submission,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer

CHAT = "/chat-42"
TASK = "librarian.survey"


async def into(ledger: Ledger, session: str = CHAT, **values: object) -> Submission:
    return await submitted(ledger, session=session, **values)


async def held(ledger: Ledger, new: Submission) -> str | None:
    return (await ledger.queries.status(new.id)).held


async def settle(ledger: Ledger, new: Submission, state: bytes | None = None) -> None:
    lease = await claimed(ledger, new.id)
    saved = None if state is None else (CHAT, state)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE, saved)


async def test_later_runs_wait_until_those_before_have_ended(ledger: Ledger) -> None:
    first, second, third = [await into(ledger) for _ in range(3)]
    assert [await held(ledger, each) for each in (first, second, third)] == [
        None,
        "session:chat-42",
        "session:chat-42",
    ]
    claim = await ledger.leases.claim(second.id, "w", "c", LONG_MS, None)
    assert (claim.status, claim.detail) == (ClaimStatus.HELD, f"session:{CHAT}")
    lease = await claimed(ledger, first.id)
    settled = await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert settled.woken == (second.id,)
    assert await held(ledger, second) is None
    assert await held(ledger, third) == "session:chat-42"
    await settle(ledger, second)
    await settle(ledger, third)
    assert (await ledger.sessions.status(CHAT)).current is None


async def test_another_session_is_not_affected(ledger: Ledger) -> None:
    await into(ledger)
    other = await into(ledger, "/other")
    assert await held(ledger, other) is None
    status = await ledger.queries.status(other.id)
    assert (status.session, status.held) == ("other", None)


async def test_a_held_run_pushes_no_message(valkey: ValkeyServer, ledger: Ledger) -> None:
    for _ in range(3):
        await ledger.submissions.submit(submission(session=CHAT), b"message")
    with valkey.client() as client:
        assert client.llen("celery") == 1
    (stats,) = await ledger.queues.stats()
    assert (stats.queued, stats.unserved, stats.demand) == (1, 0, 1)


async def test_a_retried_released_or_lost_run_keeps_its_turn(ledger: Ledger) -> None:
    first, second = [await into(ledger) for _ in range(2)]
    for outcome, delay_ms in (("released", 0), ("retry", LONG_MS)):
        lease = await claimed(ledger, first.id)
        await ledger.leases.requeue(
            lease, lease.seq, outcome=outcome, reason="r", delay_ms=delay_ms
        )
        assert await held(ledger, second) is not None
    await touch(ledger, "HSET", first.id, f"run:{first.id}", "due", 1)
    await touch(ledger, "ZADD", first.id, "delayed", 1, first.id)
    await reap(ledger)
    await claimed(ledger, first.id)
    await lapse(ledger, first.id)
    assert (await reap(ledger)).restarted == (first.id,)
    assert await held(ledger, second) is not None
    await settle(ledger, first)
    assert await held(ledger, second) is None


@pytest.mark.parametrize("how", ["cancel", "close", "end"])
async def test_every_end_of_the_current_run_lets_the_next_one_start(
    ledger: Ledger, how: str
) -> None:
    first, second = [await into(ledger) for _ in range(2)]
    published: list[str] = []

    async def publish(run_ids: Sequence[str]) -> None:
        published.extend(run_ids)

    ledger.woken.publish = publish
    if how == "cancel":
        await ledger.cancellation.cancel(first.id, "enough")
    elif how == "close":
        await ledger.leases.end_unclaimed(first.id, TASK, DONE)
    else:
        await settle(ledger, first)
    assert published == [second.id]
    assert await held(ledger, second) is None


async def test_a_held_run_that_is_cancelled_only_leaves_the_line(ledger: Ledger) -> None:
    first, second, third = [await into(ledger) for _ in range(3)]
    await ledger.cancellation.cancel(second.id, "enough")
    assert await held(ledger, third) is not None
    await settle(ledger, first)
    assert await held(ledger, third) is None


async def test_a_deadline_passes_in_the_line(ledger: Ledger) -> None:
    await into(ledger)
    late = await into(ledger, deadline_ms=1)
    assert (await reap(ledger)).to_end == ((late.id, 0, "overdue"),)


async def test_a_busy_session_refuses_on_request(ledger: Ledger) -> None:
    first = await into(ledger, on_busy="reject")
    with pytest.raises(SessionBusyError, match="chat-42"):
        await into(ledger, on_busy="reject")
    await settle(ledger, first)
    assert await held(ledger, await into(ledger, on_busy="reject")) is None


async def test_a_later_run_cancels_the_current_one_on_request(ledger: Ledger) -> None:
    first, second = [await into(ledger) for _ in range(2)]
    lease = await claimed(ledger, first.id)
    third = await into(ledger, on_busy="cancel_running")
    reason = "a later run of its session takes its place"
    answers = await ledger.leases.renew("w1", LONG_MS, {first.id: lease.token}, timeout=5)
    assert answers == {first.id: f"!{reason}"}
    assert await ledger.queries.cancel_request(second.id) is None
    assert await ledger.queries.cancel_request(third.id) is None
    assert (await reap(ledger)).to_clean_up == ()
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert await held(ledger, second) is None


async def test_a_current_run_that_has_not_started_is_cancelled_by_the_reaper(
    ledger: Ledger,
) -> None:
    first = await into(ledger)
    for _ in range(2):
        second = await into(ledger, on_busy="cancel_running")
    assert (await reap(ledger)).to_end == ((first.id, 0, "cancelled"),)
    assert (await ledger.queries.cancel_request(second.id)) is None
    await ledger.leases.end_unclaimed(first.id, TASK, DONE, 0)


async def test_a_session_takes_a_bounded_number_of_waiting_runs(ledger: Ledger) -> None:
    await into(ledger)
    for start in range(0, 1000, 100):
        await ledger.submissions.submit_many(
            [(submission(session=CHAT), b"") for _ in range(start, start + 100)]
        )
    with pytest.raises(LimitExceededError, match="chat-42"):
        await into(ledger)
    assert (await ledger.sessions.status(CHAT)).waiting == 1000


async def test_the_state_is_written_with_the_end(ledger: Ledger) -> None:
    assert await ledger.sessions.load(CHAT) is None
    await settle(ledger, await into(ledger), b'{"turns":1}')
    assert await ledger.sessions.load(CHAT) == b'{"turns":1}'
    await settle(ledger, await into(ledger))
    assert await ledger.sessions.load(CHAT) == b'{"turns":1}'
    lease = await claimed(ledger, (await into(ledger)).id)
    stale = lease._replace(token=lease.token - 1)
    await ledger.leases.settle(stale, TASK, lease.seq, DONE, (CHAT, b"stale"))
    await ledger.leases.settle(lease, TASK, lease.seq + 1, DONE, (CHAT, b"gap"))
    assert await ledger.sessions.load(CHAT) == b'{"turns":1}'


async def test_a_session_is_listed_with_its_runs(ledger: Ledger) -> None:
    with pytest.raises(UnknownSessionError, match="chat-42"):
        await ledger.sessions.status(CHAT)
    runs = [await into(ledger) for _ in range(3)]
    await into(ledger, "/later")
    await settle(ledger, runs[0], b"[1]")
    status = await ledger.sessions.status(CHAT)
    assert (status.id, status.runs, status.waiting) == ("chat-42", 3, 1)
    assert (status.current, status.state_bytes) == (runs[1].id, 3)
    assert status.created_at <= status.active_at
    assert {each.id for each in await ledger.sessions.newest()} == {"chat-42", "later"}
    listed = await ledger.sessions.runs(CHAT, 2)
    assert [run.id for run in listed] == [runs[2].id, runs[1].id]
    queued = await newest(ledger, state=RunState.QUEUED)
    assert {run.id for run in queued} >= {runs[1].id, runs[2].id}


async def test_the_first_recorded_run_from_a_number_on_is_found(ledger: Ledger) -> None:
    assert await ledger.sessions.next_run(CHAT, 1) is None
    for _ in range(101):
        gone = submission()
        await touch(ledger, "ZADD", CHAT, f"session_runs:{CHAT}", 0, gone.id)
    runs = [await into(ledger) for _ in range(2)]
    assert await ledger.sessions.next_run(CHAT, 0) == (1, runs[0].id)
    assert await ledger.sessions.next_run(CHAT, 2) == (2, runs[1].id)
    assert await ledger.sessions.next_run(CHAT, 3) is None


async def test_a_session_goes_on_when_its_current_run_is_gone(unaudited: Ledger) -> None:
    ledger = unaudited
    first, second = [await into(ledger) for _ in range(2)]
    await touch(ledger, "DEL", first.id, f"run:{first.id}")
    assert await ledger.held.reap(0) == []
    assert await held(ledger, second) is not None
    await touch(ledger, "ZADD", second.id, "held", 1, second.id)
    await ledger.held.reap(0)
    assert await held(ledger, second) is None
    assert (await ledger.sessions.status(CHAT)).current == second.id


async def test_a_run_that_still_waits_is_looked_at_again(ledger: Ledger) -> None:
    _, second = [await into(ledger) for _ in range(2)]
    await touch(ledger, "ZADD", second.id, "held", 1, second.id)
    assert await ledger.held.reap(0) == []
    assert await held(ledger, second) is not None
    again = float(await touch(ledger, "ZSCORE", second.id, "held", second.id))
    assert 0 < again - await ledger.directory.now_ms() <= 60_000


async def test_a_run_that_is_gone_does_not_stop_the_line(unaudited: Ledger) -> None:
    ledger = unaudited
    first, second, third = [await into(ledger) for _ in range(3)]
    await touch(ledger, "DEL", second.id, f"run:{second.id}")
    await settle(ledger, first)
    assert await held(ledger, third) is None


async def test_a_session_without_runs_for_long_is_forgotten(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, session_retention_seconds=60))
    try:
        await settle(ledger, await into(ledger), b"1")
        await into(ledger, "/busy")
        await ledger.held.reap(0)
        assert len(await ledger.sessions.newest()) == 2
        for session in (CHAT, "/busy"):
            await touch(ledger, "ZADD", session, "sessions", 1, session)
        await ledger.held.reap(0)
        assert [each.id for each in await ledger.sessions.newest()] == ["busy"]
        for kind in ("session", "session_state", "session_runs"):
            assert await touch(ledger, "EXISTS", CHAT, f"{kind}:{CHAT}") == 0
        assert await touch(ledger, "EXISTS", CHAT, "session:/busy") == 1
    finally:
        await ledger.close()


async def test_a_forgotten_session_takes_its_grants_with_it(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, session_retention_seconds=60))
    try:
        for session in (CHAT, "/busy"):
            await into(ledger, session)
        await settle(ledger, await into(ledger, "/idle"))
        for session in (CHAT, "/busy", "/idle"):
            await touch(ledger, "ZADD", session, "sessions", 1, session)
        before = await ledger.directory.now_ms()
        await ledger.held.reap(0)
        assert await ledger.grants.epoch("/idle") >= before
        assert await touch(ledger, "PTTL", "/idle", "grant_epoch:/idle") > 86_400_000
        assert [await ledger.grants.epoch(session) for session in (CHAT, "/busy")] == [0, 0]
    finally:
        await ledger.close()


async def test_a_session_lists_its_last_runs_only(ledger: Ledger) -> None:
    first = await into(ledger)
    old = [f"old-{number}" for number in range(10_000)]
    for start in range(0, 10_000, 1000):
        flat = [part for run_id in old[start : start + 1000] for part in (-1, run_id)]
        await touch(ledger, "ZADD", CHAT, f"session_runs:{CHAT}", *flat)
    await settle(ledger, first)
    assert await touch(ledger, "ZCARD", CHAT, f"session_runs:{CHAT}") == 10_000
    assert (await ledger.sessions.next_run(CHAT, 1)) == (1, first.id)


async def test_runs_of_a_session_are_on_its_shard(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, shards=16))
    try:
        for number in range(8):
            session = f"/{number}"
            shard = ledger.keys.shard(session)
            assert ledger.keys.shard(ledger.keys.new_id(session)) == shard
            assert ledger.keys.shard(ledger.keys.key_id("a.b", "key", session)) == shard
    finally:
        await ledger.close()


def test_a_session_belongs_to_its_caller_where_authentication_is_required() -> None:
    loose, strict = Settings.load(), Settings.load(auth="required")
    assert session_name(loose, "chat", {"sub": "ann"}) == "/chat"
    names = {
        session_name(strict, "chat", claims)
        for claims in ({"sub": "ann"}, {"sub": "bob"}, {"sub": "skillfleet"}, None, {})
    }
    assert len(names) == 3
    assert all(name.endswith("/chat") for name in names)


async def sent(ledger: Ledger, current: str, value: bytes = b'{"text":"hi"}') -> Submission:
    """Submit a run that is to become a message to the run `current`."""
    new = submission(session=CHAT, on_busy="send", args=value)
    packed = InboxMessage(value, run=new.id).packed()
    await ledger.submissions.submit(new.changed(message=(current, packed)), b"message")
    return new


async def receive(ledger: Ledger, lease: Lease, identity: str = "m1") -> bytes | None:
    seq = await last(ledger, lease.run_id)
    found = entry(identity, 1, None, kind=EntryKind.MESSAGE)
    _, value = await ledger.waits.receive(lease, seq, found, "", {})
    return value


async def test_a_sent_run_that_is_received_is_a_run_no_more(ledger: Ledger) -> None:
    first = await into(ledger)
    lease = await claimed(ledger, first.id)
    new = await sent(ledger, first.id)
    assert await held(ledger, new) == "session:chat-42"
    assert await receive(ledger, lease) == b'{"text":"hi"}'
    reason = f"run {first.id} has received it as a message"
    assert await ledger.queries.cancel_request(new.id) == (reason, "delivered")
    assert (await reap(ledger)).to_end == ((new.id, 0, "cancelled"),)
    await ledger.leases.end_unclaimed(new.id, TASK, DONE, 0)


async def test_a_sent_run_that_is_unread_has_its_turn(ledger: Ledger) -> None:
    first = await into(ledger)
    new = await sent(ledger, first.id)
    await settle(ledger, first)
    assert await held(ledger, new) is None
    await settle(ledger, new)


async def test_a_run_is_sent_to_the_one_that_has_its_turn(ledger: Ledger) -> None:
    idle = await sent(ledger, "")
    assert await held(ledger, idle) is None
    second = await into(ledger)
    with pytest.raises(SessionMovedError, match="chat-42"):
        await sent(ledger, second.id)
    assert (await ledger.sessions.status(CHAT)).runs == 2
    await settle(ledger, idle)
    assert await ledger.waits.next_message(idle.id) is None


async def test_a_full_inbox_leaves_a_sent_run_in_the_line(unaudited: Ledger) -> None:
    ledger = unaudited
    first = await into(ledger)
    await touch(ledger, "HSET", first.id, f"run:{first.id}", "inbox_bytes", MOST_INBOX_BYTES)
    new = await sent(ledger, first.id)
    assert await held(ledger, new) is not None
    assert await ledger.waits.next_message(first.id) is None


async def test_a_sent_run_wakes_a_parked_one(ledger: Ledger) -> None:
    first = await into(ledger)
    lease = await claimed(ledger, first.id)
    await opened(ledger, lease, WaitSpec("m1", WaitKind.MESSAGE, name="inbox"))
    seq = await last(ledger, first.id)
    assert await ledger.leases.park(lease, seq, ["1"]) is WriteResult.PARKED
    await ledger.leases.end_parking(lease)
    published: list[str] = []

    async def publish(run_ids: Sequence[str]) -> None:
        published.extend(run_ids)

    ledger.woken.publish = publish
    await sent(ledger, first.id)
    assert published == [first.id]


async def test_a_message_ends_no_run_of_another_session_and_none_twice(ledger: Ledger) -> None:
    first = await into(ledger)
    lease = await claimed(ledger, first.id)
    other = await into(ledger, "/other")
    loose = await submitted(ledger)
    cancelled = await into(ledger)
    await touch(ledger, "HSET", cancelled.id, f"run:{cancelled.id}", "cancel", "enough")
    await touch(ledger, "ZADD", cancelled.id, "cleanups", 1, cancelled.id)
    for number, run_id in enumerate((other.id, loose.id, cancelled.id, "unknown")):
        await ledger.waits.send(first.id, InboxMessage(b"1", run=run_id).packed())
        assert await receive(ledger, lease, f"m{number}") == b"1"
    assert await ledger.queries.cancel_request(other.id) is None
    assert await ledger.queries.cancel_request(loose.id) is None
    assert await ledger.queries.cancel_request(cancelled.id) == ("enough", "")


async def test_a_senders_name_is_not_taken_for_a_run(ledger: Ledger) -> None:
    first, second = [await into(ledger) for _ in range(2)]
    lease = await claimed(ledger, first.id)
    by = f'x","run":"{second.id}'
    await ledger.waits.send(first.id, InboxMessage(b"1", by=by).packed())
    assert await receive(ledger, lease) == b"1"
    assert await ledger.queries.cancel_request(second.id) is None
