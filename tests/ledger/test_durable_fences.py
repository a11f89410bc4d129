"""An attempt that lost its lease records nothing, opens and closes no wait, takes no message.

Each script of durable runs that takes a token has its row here; test_fences.py has the others.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import WaitWrite
from tests.ledger.durable import ask, decided, entry, last, message, opened, recorded, step_event
from tests.ledger.helpers import DONE, claimed, lapse, reap, running
from tests.ledger.test_fences import everything
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
LOST = WaitWrite(WriteResult.LOST)

Call = Callable[[Ledger, Lease, int], Awaitable[Any]]


async def append(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.streams.append(lease, seq + 1, [step_event("s2")], emitted={"a": 1})


async def record(ledger: Ledger, lease: Lease, seq: int) -> Any:
    del seq
    new = entry("s2", 2)
    return await ledger.journals.record(lease, new, {"a": 1}, version="1", clears_step=True)


async def write_value(ledger: Ledger, lease: Lease, seq: int) -> Any:
    del seq
    return await ledger.journals.write_value(lease, "d", b"x")


async def open_another(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.waits.open(lease, seq, ask("q3"), 4 * 10**12)


async def open_again(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.waits.open(lease, seq, ask("q1"), None)


async def close(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.waits.close(lease, seq, "1", entry("q1", 2), {})


async def withdraw(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.waits.withdraw(lease, seq, "1")


async def reopen(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.waits.reopen(lease, seq, "1", "x")


async def receive(ledger: Ledger, lease: Lease, seq: int) -> Any:
    write, value = await ledger.waits.receive(lease, seq, entry("m", value=None), "", {})
    assert (value is None) == (write == LOST)
    return write


async def receive_again(ledger: Ledger, lease: Lease, seq: int) -> Any:
    write, _ = await ledger.waits.receive(lease, seq, entry("s1", value=None), "", {})
    return write


async def drop_message(ledger: Ledger, lease: Lease, seq: int) -> Any:
    del seq
    return await ledger.waits.drop_message(lease, message())


async def park(ledger: Ledger, lease: Lease, seq: int) -> Any:
    return await ledger.leases.park(lease, seq, ["2"])


CASES: list[tuple[Call, Any]] = [
    (append, None),
    (record, WriteResult.LOST),
    (write_value, WriteResult.LOST),
    (open_another, LOST),
    (open_again, LOST),
    (close, LOST),
    (withdraw, LOST),
    (reopen, LOST),
    (receive, LOST),
    (receive_again, LOST),
    (drop_message, WriteResult.LOST),
    (park, WriteResult.LOST),
]


async def first_attempt(ledger: Ledger) -> Lease:
    """Return a lease with an entry, a decided and an undecided wait, and a message."""
    lease = await running(ledger, max_deliveries=9)
    await recorded(ledger, lease, entry("s1"))
    await opened(ledger, lease, ask("q1"))
    await opened(ledger, lease, ask("q2"))
    await decided(ledger, lease.run_id, "1")
    await ledger.waits.send(lease.run_id, message())
    return lease


@pytest.mark.parametrize(("call", "answer"), CASES, ids=lambda v: getattr(v, "__name__", None))
@pytest.mark.parametrize("now", ["running", "queued", "parked", "ended", "closed"])
async def test_an_old_attempt_changes_nothing(
    ledger: Ledger, valkey: ValkeyServer, now: str, call: Call, answer: Any
) -> None:
    lease = await first_attempt(ledger)
    run_id = lease.run_id
    if now in ("running", "queued", "parked"):
        await lapse(ledger, run_id)
        await reap(ledger)
    if now in ("running", "parked"):
        successor = await claimed(ledger, run_id, "w2")
        if now == "parked":
            parking = ledger.leases.park(successor, await last(ledger, run_id), ["2"])
            assert await parking is WriteResult.PARKED
    elif now == "ended":
        await ledger.leases.settle(lease, TASK, await last(ledger, run_id), DONE)
    elif now == "closed":
        await ledger.leases.end_unclaimed(run_id, TASK, DONE, lease.token)
    before = everything(valkey)
    assert await call(ledger, lease, await last(ledger, run_id)) == answer
    assert everything(valkey) == before


@pytest.mark.parametrize("call", [call for call, _ in CASES], ids=lambda v: v.__name__)
async def test_the_attempt_itself_may_do_all_of_it(
    ledger: Ledger, valkey: ValkeyServer, call: Call
) -> None:
    lease = await first_attempt(ledger)
    before = everything(valkey)
    assert await call(ledger, lease, await last(ledger, lease.run_id)) is not None
    assert (everything(valkey) == before) == (call in (open_again, receive_again))
