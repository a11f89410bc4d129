"""The rules of `ScriptsMachine` about durable runs: journals, waits, inboxes, parked runs."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skillfleet.contracts import WaitKind, WaitOutcome
from skillfleet.ports.journal import Decision, EntryFailure, WaitSpec
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, WriteResult
from tests.ledger.durable import entry, let_expire, message, step_event
from tests.ledger.helpers import touch
from tests.ledger.model import ModelRun

T = TypeVar("T")
PICK = st.integers(0, 99)
LATE = st.sampled_from([0, 0, 0, 1])
STEPS = st.lists(st.sampled_from(["", "s1", "s2", "s3"]), max_size=3)
ANSWERS = st.sampled_from([b'"yes"', b'"no"'])
HOW = st.sampled_from([*WaitOutcome][:3])


class DurableRules(RuleBasedStateMachine):
    """Rules that drive a real ledger and the model side by side."""

    ledger: Ledger
    runs: list[ModelRun]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    def pick(self, number: int) -> ModelRun:
        raise NotImplementedError

    def pick_lease(self, number: int) -> tuple[ModelRun, Lease]:
        raise NotImplementedError

    def some_lease(self) -> bool:
        return any(run.leases for run in self.runs)

    def some_wait(self) -> bool:
        return any(run.waits for run in self.runs)

    def pick_wait(self, number: int) -> tuple[ModelRun, str, Lease]:
        """Choose any open wait, of the lease that holds its run or of another one."""
        waits = [(run, wait) for run in self.runs for wait in run.waits]
        run, wait_id = waits[number % len(waits)]
        held = [lease for lease in run.leases if run.holds(lease)] * 3
        leases = held + run.leases
        return run, wait_id, leases[number % len(leases)]

    def strike_off(self) -> None:
        """Note that all woken runs were published, which the reaper would do in two seconds."""
        self.run(self.ledger.maintenance.published(0, [run.new.id for run in self.runs] or ["-"]))

    @precondition(some_lease)
    @rule(number=PICK, offset=st.integers(-1, 1), steps=STEPS)
    def append_events_of_steps(self, number: int, offset: int, steps: list[str]) -> None:
        run, lease = self.pick_lease(number)
        first = max(1, run.seq + 1 + offset)
        expected = run.append_steps(lease, first, steps)
        events = [step_event(step) for step in steps]
        reply = self.run(self.ledger.streams.append(lease, first, events, emitted={"": first}))
        assert (reply[0] if reply else None) == expected

    @precondition(some_lease)
    @rule(number=PICK, name=st.sampled_from(["s1", "s2", "s3"]), failed=st.booleans())
    def record_a_step(self, number: int, name: str, *, failed: bool) -> None:
        run, lease = self.pick_lease(number)
        was_open = name in run.unfinished
        expected = run.record(lease, name, b"%d" % number)
        if failed and was_open and name in run.journal:
            # Its events are void once a retry has dropped it.
            run.unfinished.add(name)
        failure = EntryFailure("E", "c", "m") if failed else None
        new = entry(name, value=b"%d" % number, failure=failure)
        write = self.ledger.journals.record(lease, new, {}, version="1", clears_step=True)
        assert self.run(write) is expected

    @precondition(some_lease)
    @rule(number=PICK)
    def compact(self, number: int) -> None:
        """It changes no state, whether or not the attempt holds the lease."""
        run, lease = self.pick_lease(number)
        self.run(self.ledger.streams.compact(lease, run.seq))

    @precondition(some_lease)
    @rule(
        number=PICK,
        kind=st.sampled_from([*WaitKind]),
        name=st.sampled_from(["w1", "w2", "w3"]),
        question=st.sampled_from(["a?", "b?"]),
        expires=st.booleans(),
        late=LATE,
    )
    def open_a_wait(
        self, number: int, kind: WaitKind, name: str, question: str, late: int, *, expires: bool
    ) -> None:
        run, lease = self.pick_lease(number)
        # A handler whose wait is recorded gets what is recorded.
        if name not in run.journal:
            self.open(run, lease, WaitSpec(name, kind, question=question), late, expires=expires)

    def open(
        self, run: ModelRun, lease: Lease, spec: WaitSpec, late: int = 0, *, expires: bool = False
    ) -> None:
        called = None
        if spec.kind is WaitKind.CALL and run.children:
            called = run.children[-1]
            spec = WaitSpec(spec.identity, spec.kind, call=called.new.id)
        elif spec.kind is WaitKind.CALL:
            return
        seq = run.seq - late
        result, wait_id = run.open(lease, seq, spec, called, expires=expires)
        expires_ms = 4 * 10**12 if expires else None
        write = self.run(self.ledger.waits.open(lease, seq, spec, expires_ms))
        assert (write.result, write.wait_id) == (result, wait_id)
        assert result is not WriteResult.RECORDED or write.seq == run.seq

    @precondition(some_wait)
    @rule(number=PICK, late=LATE)
    def close_a_wait(self, number: int, late: int) -> None:
        run, wait_id, lease = self.pick_wait(number)
        identity, seq = run.waits[wait_id].spec.identity, run.seq - late
        expected = run.close(lease, seq, wait_id, b"1")
        write = self.ledger.waits.close(lease, seq, wait_id, entry(identity), {"": 1})
        self.check_write(run, write, expected)

    @precondition(some_wait)
    @rule(number=PICK, late=LATE)
    def withdraw_a_wait(self, number: int, late: int) -> None:
        run, wait_id, lease = self.pick_wait(number)
        seq = run.seq - late
        expected = run.withdraw(lease, seq, wait_id)
        self.check_write(run, self.ledger.waits.withdraw(lease, seq, wait_id), expected)

    @precondition(some_wait)
    @rule(number=PICK, late=LATE)
    def reopen_a_wait(self, number: int, late: int) -> None:
        run, wait_id, lease = self.pick_wait(number)
        seq = run.seq - late
        expected = run.reopen(lease, seq, wait_id)
        self.check_write(run, self.ledger.waits.reopen(lease, seq, wait_id, "no"), expected)

    def check_write(
        self, run: ModelRun, write: Coroutine[Any, Any, Any], expected: WriteResult
    ) -> None:
        found = self.run(write)
        assert found.result is expected
        assert expected is WriteResult.LOST or found.seq == run.seq

    @precondition(lambda self: any(run.opened for run in self.runs))
    @rule(number=PICK, which=PICK, how=HOW, value=ANSWERS)
    def decide(self, number: int, which: int, how: WaitOutcome, value: bytes) -> None:
        opened = [run for run in self.runs if run.opened]
        run = opened[number % len(opened)]
        waits = [*run.waits, *run.waits, *run.known, str(which % (run.opened + 1) + 1)]
        decision = Decision(how, value if how is WaitOutcome.ANSWERED else b"null")
        self.decide_one(run, waits[which % len(waits)], decision)

    def decide_one(self, run: ModelRun, wait_id: str, decision: Decision) -> None:
        status, woken = run.decide(wait_id, decision)
        found = self.run(self.ledger.waits.decide(run.new.id, wait_id, decision))
        assert (found.status, found.woken) == (status, woken)
        self.strike_off()

    @precondition(some_wait)
    @rule(number=PICK)
    def let_a_wait_expire(self, number: int) -> None:
        run, wait_id, _ = self.pick_wait(number)
        if run.waits[wait_id].expires:
            is_timed = run.waits[wait_id].decision is None
            self.run(let_expire(self.ledger, run.new.id, wait_id, is_timed=is_timed))
            run.waits[wait_id].due = True

    @precondition(lambda self: self.runs)
    @rule(number=PICK)
    def send_a_message(self, number: int) -> None:
        run = self.pick(number)
        value = b"%d" % number
        sent, woken = run.send(value)
        assert tuple(self.run(self.ledger.waits.send(run.new.id, message(value)))) == (sent, woken)
        self.strike_off()

    @precondition(some_lease)
    @rule(number=PICK, name=st.sampled_from(["m1", "m2", "m3"]), late=LATE)
    def receive_a_message(self, number: int, name: str, late: int) -> None:
        run, lease = self.pick_lease(number)
        waits = [w for w, wait in run.waits.items() if wait.spec.kind is WaitKind.MESSAGE]
        wait_id = waits[0] if waits and number % 2 else ""
        seq = run.seq - late
        expected = run.receive(lease, seq, name, wait_id)
        new = entry(name, value=None)
        write, value = self.run(self.ledger.waits.receive(lease, seq, new, wait_id, {}))
        assert (write.result, value) == expected
        assert write.result is WriteResult.LOST or write.seq == run.seq

    @precondition(some_wait)
    @rule(number=PICK, late=LATE, which=PICK)
    def park(self, number: int, late: int, which: int) -> None:
        run, wait_id, lease = self.pick_wait(number)
        awaited = [[wait_id], [*run.waits], [wait_id], [], ["77"]][which % 5]
        seq = run.seq - late
        expected = run.park(lease, seq, awaited)
        assert self.run(self.ledger.leases.park(lease, seq, awaited)) is expected

    @precondition(some_lease)
    @rule(number=PICK)
    def end_parking(self, number: int) -> None:
        run, lease = self.pick_lease(number)
        run.end_parking(lease.token)
        self.run(self.ledger.leases.end_parking(lease))
        self.strike_off()

    @precondition(lambda self: any(run.parking for run in self.runs))
    @rule(number=PICK)
    def let_the_lease_of_a_parked_run_lapse(self, number: int) -> None:
        parking = [run for run in self.runs if run.parking]
        run = parking[number % len(parking)]
        self.run(touch(self.ledger, "ZADD", run.new.id, "parking", "XX", 1, run.new.id))
        run.parking_due = True

    @precondition(lambda self: any(map(self.holder, self.runs)))
    @rule(number=PICK, kind=st.sampled_from([*WaitKind]), expires=st.booleans())
    def wait_and_park(self, number: int, kind: WaitKind, *, expires: bool) -> None:
        running = [run for run in self.runs if self.holder(run)]
        run = running[number % len(running)]
        lease = self.holder(run)
        assert lease
        self.open(run, lease, WaitSpec(f"p{run.opened}", kind), expires=expires)
        if str(run.opened) in run.waits:
            expected = run.park(lease, run.seq, [str(run.opened)])
            parked = self.ledger.leases.park(lease, run.seq, [str(run.opened)])
            assert self.run(parked) is expected
            if expected is WriteResult.PARKED and number % 4:
                run.end_parking(lease.token)
                self.run(self.ledger.leases.end_parking(lease))

    def holder(self, run: ModelRun) -> Lease | None:
        return next((lease for lease in run.leases if run.holds(lease)), None)

    @invariant()
    def journals_and_waits_equal_the_model(self) -> None:
        for run in self.runs:
            if not run.has_journal or run.state.terminal:
                continue
            stored = self.run(self.ledger.journals.load(run.new.id))
            assert {e.identity: e.value for e in stored.entries} == run.journal
            found = {wait.id: wait.decision for wait in stored.waits}
            assert found == {wait_id: wait.decision for wait_id, wait in run.waits.items()}
            assert all(w.spec == run.waits[w.id].spec for w in stored.waits)
            status = self.run(self.ledger.queries.status(run.new.id))
            assert status.waits == tuple(kind for kind in WaitKind if kind in run.waiting)
            assert status.parked == (run.state == "waiting")
