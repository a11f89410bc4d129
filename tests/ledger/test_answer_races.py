"""Answers raced against parking, expiry, cancellation, drain and loss of the worker.

One outcome wins, an acceptance is never contradicted or forgotten, and no run stays parked with a
decision.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from skillfleet.contracts import RunState, WaitOutcome
from skillfleet.ports.journal import Decision
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import DecideResult, DecideStatus
from tests.ledger.durable import EXPIRED, NO, YES, entry, last, opened
from tests.ledger.helpers import LONG_MS, claimed, lapse, reap, running

ROUNDS, AT_ONCE = 2000, 20
OTHER = Decision(WaitOutcome.ANSWERED, b'"other"', by="eve")

Move = Callable[[Ledger, Lease], Awaitable[DecideResult | None]]


def deciding(decision: Decision) -> Move:
    async def decide(ledger: Ledger, lease: Lease) -> DecideResult | None:
        return await ledger.waits.decide(lease.run_id, "1", decision)

    return decide


async def park(ledger: Ledger, lease: Lease) -> None:
    await ledger.leases.park(lease, await last(ledger, lease.run_id), ["1"])
    await ledger.leases.end_parking(lease)


async def drain(ledger: Ledger, lease: Lease) -> None:
    seq = await last(ledger, lease.run_id)
    await ledger.leases.requeue(lease, seq, outcome="released", reason="drained")


async def cancel(ledger: Ledger, lease: Lease) -> None:
    await ledger.cancellation.cancel(lease.run_id, "enough")


async def lose(ledger: Ledger, lease: Lease) -> None:
    await lapse(ledger, lease.run_id)
    await reap(ledger)


MOVES: tuple[Move, ...] = (
    *(deciding(YES), deciding(YES), deciding(OTHER), deciding(NO)),
    *(deciding(EXPIRED), park, park, drain, cancel, lose),
)


async def check_outcome(ledger: Ledger, lease: Lease, answers: list[DecideResult]) -> None:
    run_id = lease.run_id
    decided = [answer for answer in answers if answer.status is DecideStatus.DECIDED]
    assert len(decided) <= 1
    status = await ledger.queries.status(run_id)
    known = await ledger.waits.decision(run_id, "1")
    if known is not None and not decided:
        assert known == EXPIRED
    assert known is not None or not decided
    for answer in answers:
        if answer.status in (DecideStatus.SAME, DecideStatus.CONFLICT):
            assert answer.decision == known
        elif answer.status is DecideStatus.ENDED:
            assert status.state.terminal
    if status.state.terminal:
        return
    assert known is None or not status.parked
    if status.cancel_requested is not None:
        # It was given back and only waits for its end.
        assert not status.parked
        return
    if status.parked:
        late = await ledger.waits.decide(run_id, "1", YES)
        assert (late.status, late.woken) == (DecideStatus.DECIDED, True)
        known = YES
    await go_on(ledger, lease, known)


async def go_on(ledger: Ledger, lease: Lease, known: Decision | None) -> None:
    """The next attempt, or this one, finds what was decided, and records it."""
    run_id = lease.run_id
    if (await ledger.queries.state(run_id))[0] is RunState.QUEUED:
        lease = await claimed(ledger, run_id, "w2")
    (wait,) = (await ledger.journals.load(run_id)).waits
    assert wait.decision == known
    seq = await last(ledger, run_id)
    write = await ledger.waits.close(lease, seq, "1", entry("q1"), {})
    assert write.result is WriteResult.RECORDED


async def play(ledger: Ledger, seed: int) -> tuple[Lease, list[DecideResult]]:
    """Play a round; return the first attempt and the answers to all decisions."""
    rng = random.Random(seed)
    lease = await running(ledger, max_deliveries=99)
    await opened(ledger, lease, expires_ms=lease.redis_ms + rng.choice([0, 20, LONG_MS]))

    async def move(act: Move, turns: int) -> DecideResult | None:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await act(ledger, lease)

    chosen = [rng.choice(MOVES) for _ in range(rng.randint(2, 5))]
    results = await asyncio.gather(*(move(act, rng.randint(0, 9)) for act in chosen))
    return lease, [result for result in results if result is not None]


@pytest.mark.parametrize("first", range(0, ROUNDS, ROUNDS // 4))
async def test_one_outcome_wins_and_none_is_lost(ledger: Ledger, first: int) -> None:
    for start in range(first, first + ROUNDS // 4, AT_ONCE):
        seeds = range(start, start + AT_ONCE)
        played = await asyncio.gather(*(play(ledger, seed) for seed in seeds))
        await asyncio.gather(*(check_outcome(ledger, *result) for result in played))
