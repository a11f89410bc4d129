"""Races about one question: an answer against parking, time-outs, cancellation, drain and crashes.

`python -m tests.ledger.races --rounds 2000 --seed 7` plays rounds on a real Redis. In each, all who
may decide about a run act through the ledger; a seed says who acts next, so that every round can be
played again. Any call may be made twice, as after a lost reply. Then the round is judged by what
each of them was answered: the run has one outcome, and what was accepted is what its handler got.
"""

import argparse
import asyncio
import random
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from skillfleet.contracts import EntryKind, RunState, WaitOutcome
from skillfleet.ports.journal import Decision, Entry
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import ClaimStatus, Lease, WriteResult
from skillfleet_ledger.runs.waits import DecideStatus
from tests.ledger.audit import audit
from tests.ledger.durable import EXPIRED, ask, entry
from tests.ledger.helpers import LONG_MS, lapse, reap, settings_for, submission, touch
from tests.support.valkey import running_server

T = TypeVar("T")
TASK = "librarian.survey"
FAR_MS = 4_102_444_800_000
_REPEATED = 0.1
_MOST_STEPS = 2000
_ENDS = {
    "cancelled": RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough"),
    "overdue": RunEnd(RunState.TIMED_OUT, "deadline_exceeded", "too late"),
}
Actor = AsyncIterator[None]


@dataclass
class Evidence:
    """What those who took part learned, and how the run ended."""

    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    """What the handler got, in each attempt that came so far."""
    cancelled: bool = False
    overdue: bool = False
    asked: int = 0
    answered: int = 0
    """How often the question, and its end, are in the run's stream."""
    end: RunEnd | None = None


def judge(seen: Evidence) -> list[str]:
    """Return what contradicts the promises."""
    accepted, received = set(seen.accepted), set(seen.received)
    wrong = {
        f"several inputs were accepted: {sorted(accepted)}": len(accepted) > 1,
        f"attempts got different things: {sorted(received)}": len(received) > 1,
        f"{sorted(accepted)} was accepted, the handler got {sorted(received)}": bool(
            accepted and received - accepted
        ),
        f"the handler got {sorted(received)}, which no one gave": bool(
            received - accepted - {"expired"}
        ),
        f"{sorted(seen.refused)} was refused": bool(set(seen.refused) & (accepted | received)),
        f"the question is in the stream {seen.asked} times, its end {seen.answered}": (
            seen.asked > 1 or not bool(received) <= seen.answered <= seen.asked
        ),
    }
    problems = [what for what, is_wrong in wrong.items() if is_wrong]
    if seen.end is None:
        problems.append("the run did not end")
    elif seen.end.state is RunState.SUCCEEDED:
        if received != {seen.end.value}:
            problems.append(f"it returned {seen.end.value}, its handler got {sorted(received)}")
    elif not (seen.cancelled or seen.overdue):
        problems.append(f"it ended {seen.end.state}: no one asked for that")
    return problems


class Round:
    """One run, one question, and those who race about it."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.seen = Evidence()
        self.run_id = f"race-{seed}-{secrets.token_hex(4)}"
        self._ledger = ledger
        self._dice = random.Random(seed)
        self._actors: list[Actor] = []

    async def play(self) -> Evidence:
        """Let all act until the run has ended."""
        new = submission(id=self.run_id, max_deliveries=1000, deadline_ms=FAR_MS)
        assert await self._ledger.submissions.submit(new)
        self._publish()
        self._actors += self._drawn()
        for _ in range(_MOST_STEPS):
            if not self._actors and await self._has_ended():
                break
            if not self._actors:
                self._actors.append(self._settle_down())
            actor = self._dice.choice(self._actors)
            try:
                await anext(actor)
            except StopAsyncIteration:
                self._actors.remove(actor)
        await self._read_end()
        return self.seen

    def _drawn(self) -> list[Actor]:
        makers: list[Callable[[], Actor]] = [
            lambda: self._give("answer=1"),
            lambda: self._give("answer=1"),
            lambda: self._give("answer=2"),
            lambda: self._give("rejected"),
            self._cancel,
            self._request_cancel,
            self._let_expire,
            self._let_expire,
            self._pass_deadline,
            self._reap,
            self._reap,
        ]
        return [make() for make in self._dice.sample(makers, self._dice.randint(2, 6))]

    async def _call(self, make: Callable[[], Awaitable[T]]) -> T:
        """Make a call; sometimes its reply is lost, and it is made again."""
        result = await make()
        return await make() if self._dice.random() < _REPEATED else result

    def _publish(self) -> None:
        """Put the run's message onto the broker, which may deliver it twice."""
        for _ in range(self._dice.choice((1, 1, 1, 2))):
            worker = f"w{self._dice.randrange(3)}"
            self._actors.append(self._attempt(worker))

    # -- those outside

    async def _give(self, what: str) -> Actor:
        """Answer or reject, as soon as there is a question."""
        decision = _decision(what)
        for _ in range(50):
            yield
            found = await self._call(lambda: self._ledger.waits.decide(self.run_id, "1", decision))
            if found.woken and self._dice.random() < 0.8:
                self._publish()
            if found.status in (DecideStatus.DECIDED, DecideStatus.SAME):
                self.seen.accepted.append(what)
                return
            if found.status is not DecideStatus.UNKNOWN:
                self.seen.refused.append(what)
                return

    async def _cancel(self) -> Actor:
        yield
        self.seen.cancelled = True
        await self._ledger.cancellation.cancel(self.run_id, "enough")

    async def _request_cancel(self) -> Actor:
        """Cancel as a producer that may not end runs: a worker or the reaper does."""
        yield
        self.seen.cancelled = True
        cancellation = self._ledger.cancellation
        cancellation._may_end_runs = False
        try:
            await cancellation.cancel(self.run_id, "enough")
        finally:
            cancellation._may_end_runs = True

    async def _let_expire(self) -> Actor:
        """Let the time of an open question be over."""
        for _ in range(self._dice.randint(1, 30)):
            yield
        stored = await touch(self._ledger, "HGET", self.run_id, f"waits:{self.run_id}", "1")
        if stored is None:
            return
        kind, _, rest = stored.split(b" ", 2)
        key = f"waits:{self.run_id}"
        await touch(self._ledger, "HSET", self.run_id, key, "1", b"%s 1 %s" % (kind, rest))
        await touch(self._ledger, "ZADD", self.run_id, "timers", "XX", 1, f"{self.run_id}:1")

    async def _pass_deadline(self) -> Actor:
        """Let the run's deadline pass."""
        for _ in range(self._dice.randint(1, 30)):
            yield
        if await self._has_ended():
            return
        self.seen.overdue = True
        await touch(self._ledger, "HSET", self.run_id, f"run:{self.run_id}", "deadline", 1)
        await touch(self._ledger, "ZADD", self.run_id, "deadlines", "XX", 1, self.run_id)

    async def _reap(self) -> Actor:
        """Be the reaper for some rounds."""
        for _ in range(self._dice.randint(1, 20)):
            yield
            await self._reap_once()

    async def _reap_once(self) -> None:
        found = await reap(self._ledger)
        if self.run_id in found.to_publish:
            self._publish()
        for run_id, token, why in found.to_end:
            if run_id == self.run_id:
                await self._ledger.leases.end_unclaimed(run_id, TASK, _ENDS[why], token)
        for run_id in found.to_clean_up:
            await self._ledger.cancellation.clean_up(run_id)

    async def _settle_down(self) -> Actor:
        """Continue a run that no one looks after: as the reaper does in time, or with an answer."""
        await touch(self._ledger, "ZADD", self.run_id, "unpublished", "XX", 1, self.run_id)
        await touch(self._ledger, "ZADD", self.run_id, "cleanups", "XX", 1, self.run_id)
        await self._reap_once()
        state, _ = await self._ledger.queries.state(self.run_id)
        if state is RunState.QUEUED:
            self._publish()
        elif state is RunState.WAITING:
            self._actors.append(self._give("answer=3"))
        yield

    # -- attempts

    async def _attempt(self, worker: str) -> Actor:
        """Execute the run as a worker does that gets its message."""
        leases, claim_id = self._ledger.leases, secrets.token_hex(8)
        yield
        claim = await self._call(lambda: leases.claim(self.run_id, worker, claim_id, LONG_MS, None))
        if claim.status in (ClaimStatus.CANCELLED, ClaimStatus.OVERDUE):
            end = _ENDS[claim.status.value]
            await leases.end_unclaimed(self.run_id, TASK, end, claim.token)
        if claim.lease is None:
            return
        attempt = _Attempt(self, claim.lease)
        async for _ in attempt.execute():
            yield

    async def _has_ended(self) -> bool:
        return (await self._ledger.queries.state(self.run_id))[0].terminal

    async def _read_end(self) -> None:
        self.seen.end = await self._ledger.queries.end(self.run_id)
        entries = await touch(
            self._ledger, "XRANGE", self.run_id, f"events:{self.run_id}", "-", "+"
        )
        kinds = [fields[fields.index(b"k") + 1] for _, fields in entries]
        self.seen.asked, self.seen.answered = kinds.count(b"wait"), kinds.count(b"wait_ended")


class _Attempt:
    """One attempt: it asks, waits, and returns what it got."""

    def __init__(self, race: Round, lease: Lease) -> None:
        self._race = race
        self._ledger = race._ledger
        self._dice = race._dice
        self._lease = lease
        self._seq = lease.seq

    async def execute(self) -> Actor:
        """Do one call after the other until the attempt has ended."""
        run_id, leases = self._lease.run_id, self._ledger.leases
        yield
        stored = await self._ledger.journals.load(run_id)
        answer = next((_read(one) for one in stored.entries if one.identity == "q1"), None)
        if answer is None:
            yield
            write = await self._race._call(
                lambda: self._ledger.waits.open(self._lease, self._seq, ask(), FAR_MS)
            )
            if write.result is not WriteResult.RECORDED:
                return
            self._seq = write.seq
            while answer is None:
                yield
                decision = await self._ledger.waits.decision(run_id, write.wait_id)
                yield
                if decision is None:
                    if await self._wait(write.wait_id):
                        return
                    continue
                answer = await self._record(write.wait_id, decision)
                if answer is None:
                    return
        self._race.seen.received.append(answer)
        yield
        end = RunEnd(RunState.SUCCEEDED, "completed", value=answer)
        await self._race._call(lambda: leases.settle(self._lease, TASK, self._seq, end))

    async def _record(self, wait_id: str, decision: Decision) -> str | None:
        """Record a decision; None when the lease is gone."""
        answered = decision.outcome is WaitOutcome.ANSWERED
        value = decision.value if answered else b'"%s"' % decision.outcome.value.encode()
        entered = entry("q1", value=value, kind=EntryKind.ASK)
        written = await self._race._call(
            lambda: self._ledger.waits.close(self._lease, self._seq, wait_id, entered, {})
        )
        self._seq = written.seq
        return _read(entered) if written.result is WriteResult.RECORDED else None

    async def _wait(self, wait_id: str) -> bool:
        """Do what a worker may do with a run that waits; True when the attempt is over by it."""
        lease, leases, call = self._lease, self._ledger.leases, self._race._call
        written: WriteResult | None = None
        match self._dice.choice(("look", "beat", "beat", "park", "park", "expire", "drain", "die")):
            case "park":
                written = await call(lambda: leases.park(lease, self._seq, [wait_id]))
                if written is WriteResult.PARKED:
                    await call(lambda: leases.end_parking(lease))
            case "expire":
                await call(lambda: self._ledger.waits.decide(lease.run_id, wait_id, EXPIRED))
            case "drain":
                written = await call(
                    lambda: leases.requeue(lease, self._seq, outcome="released", reason="drained")
                )
                if written is WriteResult.REQUEUED:
                    self._race._publish()
            case "die":
                if await leases.held({lease.run_id: lease.token}, 5):
                    await lapse(self._ledger, lease.run_id)
                # It may only have stood still, and goes on.
                return self._dice.random() < 0.5
            case "beat":
                return await self._beat()
        return written in (WriteResult.PARKED, WriteResult.REQUEUED, WriteResult.LOST)

    async def _beat(self) -> bool:
        """Renew the lease, and end a run that was cancelled or is overdue."""
        lease, leases = self._lease, self._ledger.leases
        found = await leases.renew("w0", LONG_MS, {lease.run_id: lease.token}, 5)
        answer = found[lease.run_id]
        if answer == "lost":
            return True
        why = "cancelled" if answer else "overdue" if self._race.seen.overdue else None
        if why is None:
            return False
        await self._race._call(lambda: leases.settle(lease, TASK, self._seq, _ENDS[why]))
        return True


def _decision(what: str) -> Decision:
    kind, _, value = what.partition("=")
    if kind == "rejected":
        return Decision(WaitOutcome.REJECTED, reason="no", by="bob")
    return Decision(WaitOutcome.ANSWERED, value.encode(), by="ada")


def _read(recorded: Entry) -> str:
    value = (recorded.value or b"").decode()
    return value.strip('"') if value.startswith('"') else f"answer={value}"


async def play(ledger: Ledger, seed: int, rounds: int) -> list[str]:
    """Play rounds with the seeds from `seed` on; return all problems."""
    problems = []
    for number in range(seed, seed + rounds):
        race = Round(ledger, number)
        problems += [f"seed {number}: {problem}" for problem in judge(await race.play())]
    return problems


def main() -> int:
    """Play the rounds; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="make races", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed

    async def run() -> list[str]:
        ledger = Ledger(settings_for(server))
        try:
            found = await play(ledger, seed, given.rounds)
        finally:
            await ledger.close()
        with server.client() as client:
            return found + audit(client, ledger.keys)

    with running_server() as server:
        problems = asyncio.run(run())
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{given.rounds} rounds from seed {seed}: {len(problems)} problems\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
