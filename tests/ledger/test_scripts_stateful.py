"""Any interleaving of the scripts, from several workers, behaves like the model.

Callers die after the first step of a cancellation, releases go beyond their bound, the server
forgets its scripts. After every step the records equal the model, and the auditor finds records,
indexes, streams, debts and results consistent: one live lease at most, tokens that only grow,
dense event numbers, one terminal state that is never left, one final event, last.
"""

import asyncio
import uuid
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from skillfleet.contracts import RunState
from skillfleet.errors import LimitExceededError
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import ClaimStatus, Lease
from tests.ledger.audit import audit
from tests.ledger.helpers import (
    LONG_MS,
    child_of,
    event,
    lapse,
    reap,
    settings_for,
    submission,
    touch,
)
from tests.ledger.model import IDLE, MOST_RELEASES, ModelRun
from tests.ledger.model_waits import MAX_DELIVERIES
from tests.ledger.stateful_uploads import UploadRules
from tests.ledger.stateful_waits import DurableRules
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer

T = TypeVar("T")
TASK = "librarian.survey"
MOST_RUNS = 8
ENDS = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT)
WORKERS = st.sampled_from(["w1", "w2", "w3"])
PICK = st.integers(0, 99)


class ScriptsMachine(DurableRules, UploadRules):
    """A state machine that drives a real ledger and the model side by side."""

    def __init__(self, server: ValkeyServer) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = server.client()
        self.client.flushall()
        self.ledger = Ledger(settings_for(server))
        self.runs: list[ModelRun] = []
        self.named: set[str] = set()
        self.ended: dict[str, tuple[RunState, int]] = {}

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.client.close()
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def pick(self, number: int) -> ModelRun:
        """Choose any run, unfinished ones more often than ended ones."""
        runs = self.runs + [run for run in self.runs if not run.state.terminal] * 3
        return runs[number % len(runs)]

    def pick_lease(self, number: int) -> tuple[ModelRun, Lease]:
        """Choose any lease that was ever given, those of unfinished runs more often."""
        given = [(run, lease) for run in self.runs for lease in run.leases]
        given += [(run, lease) for run, lease in given if not run.state.terminal] * 2
        given += [(run, lease) for run, lease in given if run.holds(lease)]
        return given[number % len(given)]

    def some_lease(self) -> bool:
        return any(run.leases for run in self.runs)

    @precondition(lambda self: len(self.runs) < MOST_RUNS)
    @rule(delayed=st.booleans())
    def submit(self, *, delayed: bool) -> None:
        self.submit_one(delayed=delayed)

    @precondition(lambda self: len(self.runs) < MOST_RUNS)
    @rule(worker=WORKERS)
    def start(self, worker: str) -> None:
        self.submit_one(delayed=False)
        self.claim_one(self.runs[-1], worker, uuid.uuid4().hex)

    @precondition(lambda self: any(run.state is RunState.QUEUED for run in self.runs))
    @rule(number=PICK, worker=WORKERS)
    def start_what_waits(self, number: int, worker: str) -> None:
        waiting = [run for run in self.runs if run.state is RunState.QUEUED]
        self.claim_one(waiting[number % len(waiting)], worker, uuid.uuid4().hex)

    def submit_one(self, *, delayed: bool) -> None:
        delay = LONG_MS if delayed else 0
        new = submission(delay_ms=delay, max_deliveries=MAX_DELIVERIES)
        assert self.run(self.ledger.submissions.submit(new, b"message"))
        self.runs.append(ModelRun(new, delayed=delayed))

    @precondition(lambda self: self.runs)
    @rule(number=PICK)
    def submit_again(self, number: int) -> None:
        assert not self.run(self.ledger.submissions.submit(self.pick(number).new, b"message"))

    @precondition(lambda self: self.some_lease() and len(self.runs) < MOST_RUNS)
    @rule(number=PICK)
    def call_another(self, number: int) -> None:
        parent, lease = self.pick_lease(number)
        new = child_of(
            *(lease, lease.run_id), parent_token=lease.token, max_deliveries=MAX_DELIVERIES
        )
        try:
            self.run(self.ledger.submissions.submit(new))
        except LimitExceededError:
            assert parent.cancelled or not parent.holds(lease)
        else:
            assert parent.holds(lease)
            assert not parent.cancelled
            child = ModelRun(new, parent=parent)
            parent.children.append(child)
            self.runs.append(child)

    @precondition(lambda self: self.runs)
    @rule(number=PICK, worker=WORKERS, again=st.booleans())
    def claim(self, number: int, worker: str, *, again: bool) -> None:
        run = self.pick(number)
        self.claim_one(run, worker, run.claim_id if again and run.claim_id else uuid.uuid4().hex)

    def claim_one(self, run: ModelRun, worker: str, claim_id: str) -> None:
        expected = run.claim(claim_id)
        claim = self.run(self.ledger.leases.claim(run.new.id, worker, claim_id, LONG_MS, None))
        assert claim.status is expected
        assert claim.token == run.token
        if expected is ClaimStatus.CLAIMED:
            assert claim.lease is not None
            assert (claim.lease.token, claim.lease.attempt) == (run.token, run.attempt)
            if claim.lease.token not in [lease.token for lease in run.leases]:
                run.leases.append(claim.lease)

    @precondition(lambda self: self.some_lease())
    @rule(number=PICK, offset=st.integers(-2, 2), count=st.integers(0, 3))
    def append(self, number: int, offset: int, count: int) -> None:
        run, lease = self.pick_lease(number)
        first = max(1, run.seq + offset)
        expected = run.append(lease, first, count)
        reply = self.run(self.ledger.streams.append(lease, first, [event()] * count))
        assert (reply[0] if reply else None) == expected

    @precondition(lambda self: self.some_lease())
    @rule(number=PICK, state=st.sampled_from(ENDS), late=st.sampled_from([0, 0, 0, 1]))
    def settle(self, number: int, state: RunState, late: int) -> None:
        run, lease = self.pick_lease(number)
        seq = run.seq - late
        expected = run.settle(lease, seq, state)
        end = RunEnd(state, "code")
        assert self.run(self.ledger.leases.settle(lease, TASK, seq, end)).result is expected

    @precondition(lambda self: self.some_lease())
    @rule(
        number=PICK,
        delay=st.booleans(),
        outcome=st.sampled_from(["retry", "released"]),
        dropped=st.lists(st.sampled_from(["s1", "s2"]), max_size=1),
    )
    def requeue(self, number: int, outcome: str, dropped: list[str], *, delay: bool) -> None:
        run, lease = self.pick_lease(number)
        seq = run.seq
        expected = run.requeue(lease, seq, outcome, dropped, delay=delay)
        delay_ms = LONG_MS if delay else 0
        how: dict[str, Any] = {"outcome": outcome, "reason": "r", "dropped": dropped}
        answer = self.run(self.ledger.leases.requeue(lease, seq, **how, delay_ms=delay_ms))
        assert answer is expected

    @precondition(lambda self: self.runs)
    @rule(number=PICK)
    def let_it_have_been_released_often(self, number: int) -> None:
        run = self.pick(number)
        run_id = run.new.id
        run.released = MOST_RELEASES
        self.run(touch(self.ledger, "HSET", run_id, f"run:{run_id}", "released", MOST_RELEASES))

    @precondition(lambda self: self.some_lease())
    @rule(number=PICK)
    def pay_a_call(self, number: int) -> None:
        run, lease = self.pick_lease(number)
        try:
            self.run(self.ledger.budgets.charge_call(lease))
        except LimitExceededError:
            assert run.cancelled or not run.holds(lease)
        else:
            assert run.holds(lease)
            assert not run.cancelled

    @precondition(lambda self: self.some_lease())
    @rule(number=PICK)
    def write_a_chunk_and_commit_it(self, number: int) -> None:
        run, lease = self.pick_lease(number)
        entry = orjson.dumps({"blob": f"u{number}", "chunks": 1})
        for call in (
            ("write_chunk", lease, f"u{number}", 0, b"x", LONG_MS),
            ("commit_artifact", lease, "a", entry, 9),
        ):
            try:
                assert self.run(self.ledger.artifacts.fenced(*call)) == 1
            except LeaseLostError:
                assert not run.holds(lease)
            else:
                assert run.holds(lease)

    @rule()
    def let_the_server_forget_the_scripts(self) -> None:
        self.client.script_flush()

    @precondition(lambda self: self.some_lease())
    @rule(number=PICK)
    def renew(self, number: int) -> None:
        run, lease = self.pick_lease(number)
        tokens = {lease.run_id: lease.token}
        answers = self.run(self.ledger.leases.renew("w1", LONG_MS, tokens, timeout=5))
        answer = answers[lease.run_id]
        expected = run.renew(lease)
        assert answer == expected or (answer[0] == expected[0] == "!" and run.cancelled)

    @precondition(lambda self: self.runs)
    @rule(number=PICK)
    def let_the_lease_lapse(self, number: int) -> None:
        self.lapse(self.pick(number))

    def lapse(self, run: ModelRun) -> None:
        self.run(lapse(self.ledger, run.new.id))
        run.lapsed = run.state is RunState.RUNNING

    @precondition(lambda self: self.runs)
    @rule(number=PICK)
    def let_the_delay_pass(self, number: int) -> None:
        run = self.pick(number)
        if run.delayed:
            run_id = run.new.id
            self.run(touch(self.ledger, "HSET", run_id, f"run:{run_id}", "due", 1))
            self.run(touch(self.ledger, "ZADD", run_id, "delayed", "XX", 1, run_id))
            run.due = True

    @precondition(lambda self: self.some_lease())
    @rule(number=PICK)
    def crash(self, number: int) -> None:
        run, _ = self.pick_lease(number)
        self.lapse(run)
        self.reap_once(closing=False)

    @precondition(lambda self: self.runs)
    @rule(number=PICK)
    def begin_to_cancel_and_die(self, number: int) -> None:
        run = self.pick(number)
        end = RunEnd(RunState.CANCELLED, "code", "enough")
        what, _ = self.run(self.ledger.cancellation._cancel_one(run.new.id, end, only_mark="1"))
        assert what == run.mark()

    @rule()
    def let_all_debts_be_due(self) -> None:
        key = f"{self.ledger.keys.shard_prefix(0)}cleanups"
        owing: Any = self.client.zrange(key, 0, -1)
        for run_id in owing:
            self.client.zadd(key, {run_id: 1})

    @precondition(lambda self: self.runs)
    @rule(number=PICK, how=st.sampled_from(["cancel", "cancel", "close", "close_any", "deadline"]))
    def end_without_an_attempt(self, number: int, how: str) -> None:
        run = self.pick(number)
        if how == "cancel":
            assert self.run(self.ledger.cancellation.cancel(run.new.id, "enough")) == run.cancel()
        elif how == "deadline":
            self.let_the_deadline_pass(run)
        else:
            # Callers close a running run only when the reaper has taken its lease away.
            stale = run.state is RunState.RUNNING and run.orphaned != run.token
            token = None if how == "close_any" else run.token - stale
            self.close(run, token, RunState.DEAD)

    def close(self, run: ModelRun, token: int | None, state: RunState) -> None:
        expected = run.end_unclaimed(token)
        end = RunEnd(state, "code")
        assert self.run(self.ledger.leases.end_unclaimed(run.new.id, TASK, end, token)) == expected

    def let_the_deadline_pass(self, run: ModelRun) -> None:
        if not run.state.terminal:
            run_id = run.new.id
            self.run(touch(self.ledger, "HSET", run_id, f"run:{run_id}", "deadline", 1))
            self.run(touch(self.ledger, "ZADD", run_id, "deadlines", 1, run_id))
            run.overdue = True

    @precondition(lambda self: self.runs)
    @rule(closing=st.booleans())
    def reap(self, *, closing: bool) -> None:
        self.reap_once(closing=closing)

    def reap_once(self, *, closing: bool) -> None:
        self.strike_off()
        key = f"{self.ledger.keys.shard_prefix(0)}cleanups"
        debts: Any = self.client.zrange(key, 0, -1, withscores=True)
        began = self.now_ms()
        found = self.run(reap(self.ledger))
        # An unpublished run comes again two seconds later, which a slow machine may need.
        self.run(self.ledger.maintenance.published(0, found.to_publish))
        queued = {run.new.id for run in self.runs if run.state in IDLE}
        # A cleanup may have become due in between.
        seen = {*found.to_clean_up, *(run_id for run_id, _, _ in found.to_end)}
        due = {
            run_id.decode()
            for run_id, at in debts
            if at <= began or (at <= self.now_ms() and run_id.decode() in seen)
        }
        expected = {run.new.id: run.reap(cleanup=run.new.id in due) for run in self.runs}
        published = {run_id for run_id, what in expected.items() if "publish" in what}
        assert set(found.to_publish) == published
        assert len(found.to_publish) == len(published)
        assert set(found.to_clean_up) == {
            run_id for run_id, what in expected.items() if "cleanups" in what
        }
        self.close_all(found.to_end, expected, queued, closing=closing)
        if closing:
            for run_id in found.to_clean_up:
                self.by_id(run_id).clean_up()
                self.run(self.ledger.cancellation.clean_up(run_id))

    def close_all(
        self,
        found: Sequence[tuple[str, int, str]],
        expected: Mapping[str, set[str]],
        queued: Collection[str],
        *,
        closing: bool,
    ) -> None:
        for run_id, token, why in found:
            run = self.by_id(run_id)
            # A cancelled run whose deadline passed, too, is named for both.
            overdue = why == "overdue" and run.overdue and run_id in queued
            assert why in expected[run_id] or overdue
            assert token == run.token or run.state.terminal
            if closing:
                self.close(run, token, RunState.DEAD)
        wanted = {run_id for run_id, what in expected.items() if what - {"publish", "cleanups"}}
        # Runs that were named and not closed come again some seconds later.
        named = {run_id for run_id, _, _ in found}
        assert wanted <= named | self.named
        self.named |= named

    def by_id(self, run_id: str) -> ModelRun:
        return next(run for run in self.runs if run.new.id == run_id)

    def now_ms(self) -> int:
        return self.run(self.ledger.directory.now_ms())

    @invariant()
    def records_equal_the_model(self) -> None:
        for run in self.runs:
            key = f"{self.ledger.keys.prefix(run.new.id)}run:{run.new.id}"
            values: Any = self.client.hmget(key, "state", "token", "seq", "attempt")
            found = (values[0].decode(), *(int(value) for value in values[1:]))
            assert found == (run.state, run.token, run.seq, run.attempt)
            assert sum(run.holds(lease) for lease in run.leases) <= 1
            if run.state.terminal:
                assert self.ended.setdefault(run.new.id, (run.state, run.seq)) == (
                    run.state,
                    run.seq,
                )
            else:
                assert run.new.id not in self.ended

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        assert audit(self.client, self.ledger.keys) == []


@pytest.mark.parametrize("examples", forms(short=[10], thorough=[100]))
def test_any_interleaving_of_the_scripts_keeps_the_promises(
    valkey: ValkeyServer, examples: int
) -> None:
    run_state_machine_as_test(
        lambda: ScriptsMachine(valkey),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
