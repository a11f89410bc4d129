"""Waits: opened once, decided once, closed with an entry, shown in the stream and the state."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from skillfleet.contracts import AnswerKey, EntryKind, RunState, WaitKind, WaitOutcome
from skillfleet.errors import LimitExceededError, UnknownRunError
from skillfleet.ports.journal import Decision, WaitSpec
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import MOST_WAITS, DecideStatus, WaitWrite
from tests.ledger.durable import (
    EXPIRED,
    NO,
    YES,
    ask,
    decided,
    entry,
    field,
    last,
    let_expire,
    opened,
    parked,
    recorded,
)
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    lapse,
    read_all,
    reap,
    running,
    settings_for,
    touch,
)
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
HIDDEN = (WaitKind.TIMER, WaitKind.CALL)


async def events_of(ledger: Ledger, lease: Lease) -> list[tuple[str, dict[str, Any]]]:
    """End the run and return kind and payload of its events after the first, without the last."""
    await ledger.leases.settle(lease, TASK, await last(ledger, lease.run_id), DONE)
    return [(event.kind, event.payload) for event in await read_all(ledger, lease.run_id)][1:-1]


async def state_of(ledger: Ledger, run_id: str) -> tuple[RunState, tuple[WaitKind, ...], bool]:
    status = await ledger.queries.status(run_id)
    assert (await ledger.queries.state(run_id))[0] is status.state
    return status.state, status.waits, status.parked


async def now_ms(ledger: Ledger) -> int:
    return await ledger.directory.now_ms()


# --- opening ----------------------------------------------------------------------------------


async def test_a_run_with_a_question_shows_that_it_waits(ledger: Ledger) -> None:
    lease = await running(ledger)
    schema = {"type": "string", "enum": ["yes", "no"]}
    spec = ask("q", 'De\n"lete" ä?', name="delete", schema=schema, scopes=("a", "b"), seconds=5.0)
    before = await now_ms(ledger)
    expires = before + LONG_MS
    write = await ledger.waits.open(lease, 1, spec, expires, {"a": 2})
    assert write == WaitWrite(WriteResult.RECORDED, 3, "1")
    assert await state_of(ledger, lease.run_id) == (RunState.WAITING, (WaitKind.ASK,), False)
    (wait,) = await ledger.waits.list(lease.run_id)
    assert (wait.id, wait.run_id, wait.kind, wait.name) == ("1", lease.run_id, "ask", "delete")
    assert (wait.question, wait.value_schema, wait.scopes) == (spec.question, schema, ("a", "b"))
    assert before <= wait.opened_at.timestamp() * 1000 <= await now_ms(ledger)
    assert wait.expires_at is not None
    assert round(wait.expires_at.timestamp() * 1000) == expires
    journal = await ledger.journals.load(lease.run_id)
    assert journal.emitted == {"a": 2}
    (stored,) = journal.waits
    assert (stored.id, stored.spec, stored.expires_ms) == ("1", spec, expires)
    assert stored.decision is None
    assert await events_of(ledger, lease) == [
        (
            "wait",
            {
                "id": "1",
                "kind": "ask",
                "name": "delete",
                "question": spec.question,
                "value_schema": schema,
            },
        ),
        ("state", {"state": "waiting", "waits": ["ask"]}),
    ]


async def test_several_waits_are_announced_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    assert (await opened(ledger, lease, ask("q1"))).wait_id == "1"
    assert (await opened(ledger, lease, WaitSpec("t", WaitKind.TIMER), 5)).wait_id == "2"
    assert (await opened(ledger, lease, ask("q2"))).wait_id == "3"
    kinds = (WaitKind.ASK, WaitKind.TIMER)
    assert await state_of(ledger, run_id) == (RunState.WAITING, kinds, False)
    for wait_id in ("3", "1"):
        await decided(ledger, run_id, wait_id)
        assert [wait.id for wait in await ledger.waits.list(run_id)] == sorted(
            {"1", "2", "3"} - {"3", wait_id}
        )
    assert await state_of(ledger, run_id) == (RunState.WAITING, (WaitKind.TIMER,), False)
    seq = await last(ledger, run_id)
    assert await ledger.waits.close(lease, seq, "1", entry("q1"), {}) == WaitWrite(
        WriteResult.RECORDED, seq + 1
    )
    seq += 1
    assert (await ledger.waits.close(lease, seq, "2", entry("t"), {})).seq == seq + 1
    assert await state_of(ledger, run_id) == (RunState.RUNNING, (), False)
    seq += 1
    assert (await ledger.waits.close(lease, seq, "3", entry("q2"), {})).seq == seq + 1
    kinds_of_events = [
        (kind, payload.get("id", payload.get("state")))
        for kind, payload in await events_of(ledger, lease)
    ]
    assert kinds_of_events == [
        ("wait", "1"),
        ("state", "waiting"),
        ("wait", "3"),
        ("wait_ended", "1"),
        ("state", "running"),
        ("wait_ended", "3"),
    ]


@pytest.mark.parametrize("kind", list(WaitKind))
async def test_timers_and_calls_have_no_events(ledger: Ledger, kind: WaitKind) -> None:
    lease = await running(ledger)
    called = "called" if kind is WaitKind.CALL else ""
    await opened(ledger, lease, WaitSpec("w", kind, call=called))
    (stored,) = (await ledger.journals.load(lease.run_id)).waits
    assert (stored.spec.kind, stored.spec.call, stored.expires_ms) == (kind, called, None)
    await ledger.waits.withdraw(lease, await last(ledger, lease.run_id), "1", "enough")
    ended = {"id": "1", "kind": kind, "outcome": "withdrawn", "by": "", "reason": "enough"}
    is_streamed = await field(ledger, lease.run_id, "stream") == b"1"
    assert is_streamed == (kind not in HIDDEN)
    events = await events_of(ledger, lease)
    states = [payload for name, payload in events if name == "state"]
    assert states == [{"state": "waiting", "waits": [kind]}, {"state": "running"}]
    shown = [event for event in events if event[0] != "state"]
    if kind in HIDDEN:
        assert shown == []
    else:
        assert [name for name, _ in shown] == ["wait", "wait_ended"]
        assert shown[1][1] == ended


async def test_the_same_wait_is_found_again(ledger: Ledger) -> None:
    lease = await running(ledger)
    first = await ledger.waits.open(lease, 1, ask(), None)
    # The answer was lost: the same call comes again.
    assert await ledger.waits.open(lease, 1, ask(), None) == first
    await decided(ledger, lease.run_id)
    assert await ledger.waits.open(lease, 9, ask(), 5) == first
    assert await field(ledger, lease.run_id, "waiting") == b""


@pytest.mark.parametrize(
    "other",
    [
        ask(question="Delete more?"),
        ask(kind=WaitKind.GRANT),
        ask(schema={"type": "string"}),
        ask(scopes=("x",)),
    ],
    ids=["question", "kind", "schema", "scopes"],
)
@pytest.mark.parametrize("is_decided", [False, True])
async def test_another_question_gets_no_old_answer(
    ledger: Ledger, other: WaitSpec, *, is_decided: bool
) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease, ask(), LONG_MS)
    if is_decided:
        await decided(ledger, run_id)
    write = await opened(ledger, lease, other)
    assert write.wait_id == "2"
    assert await field(ledger, run_id, "waiting") == str(other.kind).encode()
    (stored,) = (await ledger.journals.load(run_id)).waits
    assert (stored.id, stored.spec, stored.decision) == ("2", other, None)
    assert await touch(ledger, "ZCARD", run_id, "timers") == 0
    late = await ledger.waits.decide(run_id, "1", NO)
    assert late.status is DecideStatus.CONFLICT
    ended = [payload for kind, payload in await events_of(ledger, lease) if kind == "wait_ended"]
    assert [(e["id"], e["outcome"]) for e in ended] == [("1", "withdrawn")]
    assert "another question" in ended[0]["reason"]


async def test_a_run_has_a_hundred_open_waits_at_most(ledger: Ledger) -> None:
    lease = await running(ledger)
    for number in range(MOST_WAITS):
        await opened(ledger, lease, ask(f"q{number}"))
    seq = await last(ledger, lease.run_id)
    with pytest.raises(LimitExceededError, match="100 open waits"):
        await ledger.waits.open(lease, seq, ask("more"), None)
    # In place of another there is room, and when one is closed.
    await opened(ledger, lease, ask("q0", "another?"))
    seq = (await ledger.waits.withdraw(lease, await last(ledger, lease.run_id), "2")).seq
    assert (await ledger.waits.open(lease, seq, ask("more"), None)).wait_id == "102"
    waits = await ledger.waits.list(lease.run_id)
    assert [int(wait.id) for wait in waits] == [*range(3, 103)]


async def test_no_event_may_be_missing_before_a_wait(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    gap = WaitWrite(WriteResult.GAP, 1)
    assert await ledger.waits.open(lease, 2, ask(), None) == gap
    assert await ledger.waits.open(lease, 0, ask(), None) == gap
    await opened(ledger, lease)
    await decided(ledger, run_id)
    gap = WaitWrite(WriteResult.GAP, 3)
    for seq in (2, 4):
        assert await ledger.waits.close(lease, seq, "1", entry("q1"), {}) == gap
        assert await ledger.waits.withdraw(lease, seq, "1") == gap
        assert await ledger.waits.reopen(lease, seq, "1", "x") == gap
    assert (await ledger.journals.load(run_id)).entries == []


async def test_scripts_answer_to_the_last_number(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id, token = lease.run_id, lease.token

    def call(script: str, *args: Any) -> Awaitable[Any]:
        return ledger.waits._run(script, run_id, token, *args)

    record = ("record", "q1", b"{}", "1", "", "", "1")
    opening = ("ask", "-", "-", "a", "b", b"{}", b'{"kind":"ask"}', 1)
    assert await call("open_wait", 7, *opening) == [-1, 1]
    assert await call("open_wait", 1, *opening) == [1, 3, b"1"]
    assert await call("open_wait", 3, *opening[:3], "c", *opening[4:]) == [-2, 3]
    await decided(ledger, run_id)
    for script in ("withdraw_wait", "reopen_wait"):
        assert await call(script, 7, "1", "x") == [-1, 3]
        assert await call(script, 7, "2", "x") == [1, 3]
    assert await call("receive", 7, "m", b"{}", "") == [-1, 3]
    assert await call("receive", 3, "m", b"{}", "") == [2, 3]
    assert await call(*record, 7) == [-1, 3]
    assert await call(*record, 3) == [1, 5]
    for seq in (3, 5):
        assert await call(*record, seq) == [1, 5]
    assert await call("record", "s1", b"{}", "1", "", "", "", "") == [1, 5]
    assert await call("park", 5, 0) == b"refused"
    assert await call("drop_message", b"x") == 1


# --- deciding ---------------------------------------------------------------------------------


async def test_a_wait_is_decided_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease)
    assert await ledger.waits.decision(run_id, "1") is None
    answers = await asyncio.gather(
        *(
            ledger.waits.decide(run_id, "1", Decision(WaitOutcome.ANSWERED, b"%d" % n, by=f"p{n}"))
            for n in range(20)
        )
    )
    statuses = [answer.status for answer in answers]
    assert statuses.count(DecideStatus.DECIDED) == 1
    assert statuses.count(DecideStatus.CONFLICT) == 19
    winner = statuses.index(DecideStatus.DECIDED)
    known = Decision(WaitOutcome.ANSWERED, b"%d" % winner, by=f"p{winner}")
    assert await ledger.waits.decision(run_id, "1") == known
    assert {answer.decision for answer in answers} == {None, known}
    assert not any(answer.woken for answer in answers)


@pytest.mark.parametrize("decision", [YES, NO], ids=["answer", "rejection"])
async def test_a_decision_may_come_again(ledger: Ledger, decision: Decision) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease)
    await decided(ledger, run_id, decision=decision)
    others = [
        Decision(decision.outcome, b'"other"'),
        NO if decision.outcome is WaitOutcome.ANSWERED else YES,
    ]

    async def check(known: Decision | None) -> None:
        again = Decision(decision.outcome, decision.value, reason="another", by="eve")
        found = await ledger.waits.decide(run_id, "1", again)
        assert (found.status, found.woken, found.decision) == (DecideStatus.SAME, False, known)
        for other in others:
            found = await ledger.waits.decide(run_id, "1", other)
            assert (found.status, found.decision) == (DecideStatus.CONFLICT, known)

    await check(decision)
    await ledger.waits.close(lease, await last(ledger, run_id), "1", entry("q1"), {})
    await check(None)
    await ledger.leases.settle(lease, TASK, await last(ledger, run_id), DONE)
    await check(None)


async def test_a_decision_is_compared_without_its_value(ledger: Ledger) -> None:
    lease = await running(ledger)
    wait_id = (await opened(ledger, lease)).wait_id
    answered = WaitOutcome.ANSWERED

    async def compared(*same: bytes, wait: str = wait_id) -> DecideStatus:
        return (await ledger.waits.compare(lease.run_id, wait, answered, same)).status

    assert await compared(b"true") is DecideStatus.EARLY
    assert await compared(b"true", wait="7") is DecideStatus.UNKNOWN
    decision = Decision(answered, b'"encrypted"')
    first = await ledger.waits.decide(lease.run_id, wait_id, decision, b"key")
    assert first.status is DecideStatus.DECIDED
    again = Decision(answered, b'"encrypted again"')
    assert (await ledger.waits.decide(lease.run_id, wait_id, again, b"key")).status == "same"
    for is_closed in (False, True):
        if is_closed:
            seq = await last(ledger, lease.run_id)
            await ledger.waits.close(lease, seq, wait_id, entry("q1"), {})
        assert await compared(b"true", b"key") is DecideStatus.SAME
        assert await compared(b"true") is DecideStatus.CONFLICT
        assert await compared(b'"encrypted"') is DecideStatus.CONFLICT
    with pytest.raises(UnknownRunError):
        await ledger.waits.compare("unknown", "1", answered, [b"true"])


async def test_a_comparison_expires_an_overdue_wait(ledger: Ledger) -> None:
    lease = await running(ledger)
    await parked(ledger, lease, expires_ms=LONG_MS)
    await let_expire(ledger, lease.run_id)
    for is_woken in (True, False):
        found = await ledger.waits.compare(lease.run_id, "1", WaitOutcome.ANSWERED, [b"true"])
        assert found == (DecideStatus.CONFLICT, is_woken, Decision(WaitOutcome.EXPIRED))


async def test_a_question_with_another_key_is_another_one(ledger: Ledger) -> None:
    lease = await running(ledger)
    keys = [AnswerKey(id=name, public="") for name in "ab"]
    spec = ask(secret=True, answer_key=keys[0])
    assert (await opened(ledger, lease, spec)).wait_id == "1"
    assert (await opened(ledger, lease, spec)).wait_id == "1"
    assert (await opened(ledger, lease, ask(secret=True, answer_key=keys[1]))).wait_id == "2"
    (wait,) = await ledger.waits.list(lease.run_id)
    assert wait.answer_key == keys[1]
    (stored,) = (await ledger.journals.load(lease.run_id)).waits
    assert stored.spec.secret


async def test_what_cannot_be_decided(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    with pytest.raises(UnknownRunError):
        await ledger.waits.decide("unknown", "1", YES)
    for wait_id in ("1", "0x1", "", "1.5", "-1"):
        found = await ledger.waits.decide(run_id, wait_id, YES)
        assert found.status is DecideStatus.UNKNOWN
    await opened(ledger, lease)
    assert (await ledger.waits.decide(run_id, "2", YES)).status is DecideStatus.UNKNOWN
    await ledger.leases.settle(lease, TASK, await last(ledger, run_id), DONE)
    assert (await ledger.waits.decide(run_id, "1", YES)).status is DecideStatus.ENDED
    assert await ledger.waits.decision(run_id, "1") is None
    assert await ledger.waits.list(run_id) == []
    assert await state_of(ledger, run_id) == (RunState.SUCCEEDED, (), False)


@pytest.mark.parametrize("kind", list(WaitKind))
async def test_people_decide_questions_only(ledger: Ledger, kind: WaitKind) -> None:
    lease = await running(ledger)
    await opened(ledger, lease, WaitSpec("w", kind))
    is_question = kind in (WaitKind.ASK, WaitKind.GRANT)
    status = DecideStatus.DECIDED if is_question else DecideStatus.UNKNOWN
    assert (await ledger.waits.decide(lease.run_id, "1", YES)).status is status
    await opened(ledger, lease, WaitSpec("w2", kind))
    assert (await ledger.waits.decide(lease.run_id, "2", NO)).status is status


@pytest.mark.parametrize("kind", list(WaitKind))
async def test_a_wait_expires_when_it_is_time(ledger: Ledger, kind: WaitKind) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease, WaitSpec("w", kind), await now_ms(ledger) + LONG_MS)
    await opened(ledger, lease, WaitSpec("w2", kind))
    for wait_id in ("1", "2"):
        early = await ledger.waits.decide(run_id, wait_id, EXPIRED)
        assert (early.status, early.decision) == (DecideStatus.EARLY, None)
    await let_expire(ledger, run_id)
    await decided(ledger, run_id, decision=EXPIRED)
    assert (await ledger.waits.decide(run_id, "1", EXPIRED)).status is DecideStatus.SAME
    late = await ledger.waits.decide(run_id, "1", YES)
    assert (late.status, late.decision) == (DecideStatus.CONFLICT, EXPIRED)
    await ledger.waits.close(lease, await last(ledger, run_id), "1", entry("w"), {})
    assert await touch(ledger, "EXISTS", run_id, f"decisions:{run_id}") == 0
    late = await ledger.waits.decide(run_id, "1", YES)
    assert (late.status, late.decision) == (DecideStatus.CONFLICT, None)


async def test_the_reaper_expires_waits(ledger: Ledger) -> None:
    lease, other = await running(ledger), await running(ledger)
    due, later = lease.run_id, other.run_id
    for each in (lease, other):
        await parked(ledger, each, WaitSpec("t", WaitKind.TIMER), await now_ms(ledger) + LONG_MS)
    await let_expire(ledger, due)
    assert (await reap(ledger)).to_publish == (due,)
    assert await ledger.waits.decision(due, "1") == EXPIRED
    assert await ledger.waits.decision(later, "1") is None
    assert await touch(ledger, "ZRANGE", due, "timers", 0, -1) == [f"{later}:1".encode()]
    assert await state_of(ledger, due) == (RunState.QUEUED, (), False)
    # Its caller died before it published the run.
    await touch(ledger, "ZADD", due, "unpublished", 1, due)
    assert (await reap(ledger)).to_publish == (due,)
    await ledger.maintenance.published(0, [due])
    assert (await reap(ledger)).to_publish == ()


async def test_the_reaper_leaves_decided_waits_alone(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease, ask(), await now_ms(ledger) + LONG_MS)
    await decided(ledger, run_id)
    await let_expire(ledger, run_id)
    await touch(ledger, "ZADD", run_id, "timers", 1, f"{run_id}:7", 1, "gone:1", 1, "nonsense")
    assert (await reap(ledger)).to_publish == ()
    assert await ledger.waits.decision(run_id, "1") == YES
    assert await touch(ledger, "ZCARD", run_id, "timers") == 0
    assert await field(ledger, run_id, "waiting") == b""


async def test_the_worker_of_a_running_run_learns_of_a_decision(
    ledger: Ledger, valkey: ValkeyServer
) -> None:
    listener = Ledger(settings_for(valkey))
    orders: asyncio.Queue[Any] = asyncio.Queue()
    try:
        channel = f"{ledger.keys.shard_prefix(0)}worker:w1"
        await listener.pubsub.listen(channel, orders.put_nowait)
        lease = await running(ledger)
        await opened(ledger, lease)
        await decided(ledger, lease.run_id)
        order = await asyncio.wait_for(orders.get(), 10)
        assert order == f"wake {lease.run_id}".encode()
        # No order for what was decided before, nor for a run that no worker has.
        await ledger.waits.decide(lease.run_id, "1", YES)
        other = await running(ledger)
        await parked(ledger, other)
        await decided(ledger, other.run_id)
        await ledger.cancellation.cancel(lease.run_id, "enough")
        assert (await asyncio.wait_for(orders.get(), 10)).startswith(b"cancel")
    finally:
        await listener.close()


# --- closing, reopening, withdrawing ----------------------------------------------------------


@pytest.mark.parametrize("decision", [YES, NO], ids=["answer", "rejection"])
async def test_a_wait_is_closed_with_its_entry(ledger: Ledger, decision: Decision) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease, ask(), await now_ms(ledger) + LONG_MS)
    await decided(ledger, run_id, decision=decision)
    closing = entry("q1", kind=EntryKind.ASK)
    write = await ledger.waits.close(lease, 3, "1", closing, {"": 2})
    assert write == WaitWrite(WriteResult.RECORDED, 5)
    # The answer was lost: the same call comes again.
    assert await ledger.waits.close(lease, 3, "1", closing, {"": 2}) == write
    journal = await ledger.journals.load(run_id)
    assert (journal.entries, journal.waits, journal.emitted) == ([closing], [], {"": 2})
    assert await touch(ledger, "ZCARD", run_id, "timers") == 0
    kept = await touch(ledger, "HGET", run_id, f"decisions:{run_id}", "1")
    assert b"\n" not in kept
    assert (await events_of(ledger, lease))[2:] == [
        (
            "wait_ended",
            {
                "id": "1",
                "kind": "ask",
                "outcome": str(decision.outcome),
                "by": decision.by,
                "reason": decision.reason,
            },
        ),
        ("state", {"state": "running"}),
    ]


async def test_a_wait_may_be_closed_undecided(ledger: Ledger) -> None:
    """A call ends with the called run, a message comes out of the inbox: no caller decides them."""
    lease = await running(ledger)
    await opened(ledger, lease, WaitSpec("c", WaitKind.CALL, call="x"))
    assert (await ledger.waits.close(lease, 2, "1", entry("c"), {})).seq == 3
    assert await state_of(ledger, lease.run_id) == (RunState.RUNNING, (), False)
    assert await touch(ledger, "EXISTS", lease.run_id, f"decisions:{lease.run_id}") == 0


async def test_an_entry_may_name_a_wait_that_is_gone(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease)
    await ledger.waits.withdraw(lease, 3, "1")
    write = await ledger.waits.close(lease, 5, "1", entry("q1"), {})
    assert write == WaitWrite(WriteResult.RECORDED, 5)
    assert (await ledger.journals.load(lease.run_id)).entries == [entry("q1")]


async def test_a_large_answer_is_kept_apart_when_its_wait_is_closed(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease)
    await ledger.journals.write_value(lease, "d1", b"x")
    large = entry("q1", value=None, size=1, digest="d1")
    await ledger.waits.close(lease, 3, "1", large, {})
    assert await touch(ledger, "PTTL", lease.run_id, f"blob:{lease.run_id}:d1") == -1
    assert await ledger.journals.value(lease.run_id, large) == b"x"


async def test_an_invalid_answer_is_dropped(ledger: Ledger) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease, ask(), await now_ms(ledger) + LONG_MS)
    await opened(ledger, lease, ask("q2"))
    await decided(ledger, run_id, "1")
    await decided(ledger, run_id, "2")
    await let_expire(ledger, run_id)
    await reap(ledger)
    assert await touch(ledger, "ZCARD", run_id, "timers") == 0
    seq = await last(ledger, run_id)
    for _ in range(2):
        write = await ledger.waits.reopen(lease, seq, "1", 'not "signed"')
        assert write == WaitWrite(WriteResult.RECORDED, seq + 1)
    assert await ledger.waits.decision(run_id, "1") is None
    assert await state_of(ledger, run_id) == (RunState.WAITING, (WaitKind.ASK,), False)
    assert (await touch(ledger, "ZSCORE", run_id, "timers", f"{run_id}:1")) == b"1"
    assert (await ledger.waits.reopen(lease, seq + 1, "2", "x")).seq == seq + 2
    assert await field(ledger, run_id, "waiting") == b"ask,ask"
    assert await touch(ledger, "ZCARD", run_id, "timers") == 1
    assert (await ledger.waits.reopen(lease, 0, "7", "x")).seq == seq + 2
    # Another answer may be given.
    await decided(ledger, run_id, "1", NO)
    event = (await events_of(ledger, lease))[3]
    assert event[0] == "wait"
    assert {name: event[1][name] for name in ("id", "reason", "question")} == {
        "id": "1",
        "reason": 'not "signed"',
        "question": "Delete it?",
    }


async def test_a_reopened_wait_without_events_shows_in_the_state_only(ledger: Ledger) -> None:
    lease = await running(ledger)
    await opened(ledger, lease, WaitSpec("t", WaitKind.TIMER), 5)
    await decided(ledger, lease.run_id, decision=EXPIRED)
    assert (await ledger.waits.reopen(lease, 2, "1", "x")).seq == 2
    assert await state_of(ledger, lease.run_id) == (RunState.WAITING, (WaitKind.TIMER,), False)


@pytest.mark.parametrize("is_decided", [False, True])
async def test_a_withdrawn_wait_is_gone(ledger: Ledger, *, is_decided: bool) -> None:
    lease = await running(ledger)
    run_id = lease.run_id
    await opened(ledger, lease, ask(), await now_ms(ledger) + LONG_MS)
    if is_decided:
        await decided(ledger, run_id)
    for _ in range(2):
        write = await ledger.waits.withdraw(lease, 3, "1")
        assert write == WaitWrite(WriteResult.RECORDED, 5)
    assert (await ledger.waits.withdraw(lease, 5, "9")).seq == 5
    assert (await ledger.journals.load(run_id)).waits == []
    assert await touch(ledger, "ZCARD", run_id, "timers") == 0
    assert (await ledger.waits.decide(run_id, "1", NO)).status is DecideStatus.CONFLICT
    ended = (await events_of(ledger, lease))[2]
    assert ended[0] == "wait_ended"
    assert ended[1]["outcome"] == "withdrawn"
    assert "does not ask" in ended[1]["reason"]


# --- attempts and ends ------------------------------------------------------------------------


async def test_the_next_attempt_announces_the_waits_of_the_last(ledger: Ledger) -> None:
    lease = await running(ledger, max_deliveries=9)
    run_id = lease.run_id
    await opened(ledger, lease, ask("q1"))
    await opened(ledger, lease, ask("q2"))
    await lapse(ledger, run_id)
    await reap(ledger)
    assert await state_of(ledger, run_id) == (RunState.QUEUED, (WaitKind.ASK,), False)
    lease = await claimed(ledger, run_id)
    assert lease.seq == await last(ledger, run_id)
    assert await state_of(ledger, run_id) == (RunState.WAITING, (WaitKind.ASK,), False)
    assert (await ledger.waits.open(lease, 0, ask("q1"), None)).wait_id == "1"
    for wait_id in ("1", "2"):
        await decided(ledger, run_id, wait_id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    lease = await claimed(ledger, run_id)
    assert lease.seq == await last(ledger, run_id)
    for number in ("1", "2"):
        await ledger.waits.close(lease, await last(ledger, run_id), number, entry(number), {})
    events = await events_of(ledger, lease)
    states = [payload["state"] for kind, payload in events if kind == "state"]
    assert states == ["waiting", "queued", "running", "waiting", "queued", "running"]


async def test_a_run_that_ends_waits_for_nothing(ledger: Ledger) -> None:
    lease, other = await running(ledger), await running(ledger)
    run_id = lease.run_id
    for each in (lease, other):
        await opened(ledger, each, ask(), await now_ms(ledger) + LONG_MS)
        await opened(ledger, each, ask("q2"), await now_ms(ledger) + LONG_MS)
    await ledger.leases.settle(lease, TASK, await last(ledger, run_id), DONE)
    assert await touch(ledger, "EXISTS", run_id, f"waits:{run_id}") == 0
    timers = await touch(ledger, "ZRANGE", run_id, "timers", 0, -1)
    assert sorted(timers) == [f"{other.run_id}:{n}".encode() for n in (1, 2)]


async def test_a_running_run_of_before_is_not_shown_as_waiting(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    assert await state_of(ledger, lease.run_id) == (RunState.RUNNING, (), False)
