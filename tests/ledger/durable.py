"""Helpers of the tests about journals, waits and parked runs."""

from typing import Any

from skillfleet.contracts import EntryKind, WaitKind, WaitOutcome
from skillfleet.ports.journal import Decision, Entry, WaitSpec
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import DecideResult, DecideStatus, WaitWrite
from skillfleet_ledger.streams import StepEvent
from tests.ledger.helpers import event, touch

YES = Decision(WaitOutcome.ANSWERED, b'"yes"', by="ada")
NO = Decision(WaitOutcome.REJECTED, reason="not today", by="bob")
EXPIRED = Decision(WaitOutcome.EXPIRED)


def entry(identity: str = "s1", number: int = 1, value: bytes | None = b"1", **more: Any) -> Entry:
    """Return an entry of a step that took 5 ms."""
    values: dict[str, Any] = {
        "kind": EntryKind.STEP,
        "name": identity,
        "attempt": 1,
        "started_ms": 1_795_000_000_000,
        "duration_ms": 5,
        "size": len(value or b""),
    }
    return Entry(identity=identity, number=number, value=value, **(values | more))


def step_event(step: str = "") -> StepEvent:
    """Return a packed event of a run with steps."""
    return ("text_delta", *event()[1:], step)


async def recorded(ledger: Ledger, lease: Lease, *entries: Entry) -> None:
    """Record entries."""
    for each in entries:
        write = await ledger.journals.record(lease, each, {}, version="1", clears_step=True)
        assert write is WriteResult.RECORDED


def ask(identity: str = "q1", question: str = "Delete it?", **more: Any) -> WaitSpec:
    """Return a question."""
    return WaitSpec(identity, **({"kind": WaitKind.ASK, "question": question} | more))


async def opened(
    ledger: Ledger, lease: Lease, spec: WaitSpec | None = None, expires_ms: int | None = None
) -> WaitWrite:
    """Open a wait after all events of the run."""
    seq = await last(ledger, lease.run_id)
    write = await ledger.waits.open(lease, seq, spec or ask(), expires_ms)
    assert write.result is WriteResult.RECORDED
    return write


async def parked(
    ledger: Ledger, lease: Lease, spec: WaitSpec | None = None, expires_ms: int | None = None
) -> str:
    """Park the run with one wait; return that wait's id."""
    wait_id = (await opened(ledger, lease, spec, expires_ms)).wait_id
    seq = await last(ledger, lease.run_id)
    assert await ledger.leases.park(lease, seq, [wait_id]) is WriteResult.PARKED
    await ledger.leases.end_parking(lease)
    return wait_id


async def decided(
    ledger: Ledger, run_id: str, wait_id: str = "1", decision: Decision = YES
) -> DecideResult:
    """Decide a wait that is not decided."""
    result = await ledger.waits.decide(run_id, wait_id, decision)
    assert result.status is DecideStatus.DECIDED
    return result


def message(value: bytes = b'"hello"') -> bytes:
    """Return a packed inbox message."""
    return InboxMessage(value, "ada").packed()


async def let_expire(
    ledger: Ledger, run_id: str, wait_id: str = "1", *, is_timed: bool = True
) -> None:
    """Let an expiring wait be due, and its timer if there is one."""
    key, timer = f"waits:{run_id}", f"{run_id}:{wait_id}"
    stored = await touch(ledger, "HGET", run_id, key, wait_id)
    kind, expires, rest = stored.split(b" ", 2)
    assert expires != b"-"
    await touch(ledger, "HSET", run_id, key, wait_id, b"%s 1 %s" % (kind, rest))
    await touch(ledger, "ZADD", run_id, "timers", *(() if is_timed else ("XX",)), 1, timer)


async def last(ledger: Ledger, run_id: str) -> int:
    """Return the number of the run's last event."""
    return (await ledger.queries.state(run_id))[1]


async def field(ledger: Ledger, run_id: str, name: str) -> bytes | None:
    """Return a field of the run's record."""
    found: bytes | None = await touch(ledger, "HGET", run_id, f"run:{run_id}", name)
    return found
