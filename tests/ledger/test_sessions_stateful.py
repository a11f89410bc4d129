"""Any interleaving of submissions, attempts, losses and ends keeps the order of every session.

Runs are held for their sessions and because no worker serves them, both at once over time. After
every step the auditor finds one run of a session free at most, the first of those that are live.
"""

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from skillfleet.contracts import RunState
from skillfleet.errors import SessionBusyError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import ClaimStatus, Lease, WriteResult
from tests.ledger.audit import audit
from tests.ledger.helpers import LONG_MS, lapse, reap, settings_for, submission, touch
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer

T = TypeVar("T")
TASK = "librarian.survey"
SESSIONS = (None, "/a", "/b")
PICK = st.integers(0, 99)
END = RunEnd(RunState.SUCCEEDED, "completed")


@dataclass
class ModelRun:
    """The expected state of a run."""

    id: str
    number: int
    session: str | None
    state: RunState = RunState.QUEUED
    lease: Lease | None = None
    unserved: bool = False
    cancelled: bool = False

    @property
    def live(self) -> bool:
        return not self.state.terminal


@dataclass
class Model:
    """The expected runs, in the order of submission."""

    runs: list[ModelRun] = field(default_factory=list)

    def live(self, session: str | None) -> list[ModelRun]:
        return [run for run in self.runs if run.session == session and run.live]

    def waits(self, run: ModelRun) -> bool:
        """True for a run whose session has an earlier one that has not ended."""
        return run.session is not None and self.live(run.session)[0] is not run

    def claim(self, run: ModelRun) -> ClaimStatus:
        if run.state is RunState.RUNNING:
            return ClaimStatus.DUPLICATE
        if not run.live:
            return ClaimStatus.ENDED
        if run.cancelled:
            return ClaimStatus.CANCELLED
        return ClaimStatus.HELD if self.waits(run) else ClaimStatus.CLAIMED


class SessionsMachine(RuleBasedStateMachine):
    """A state machine that drives a real ledger and the model side by side."""

    def __init__(self, server: ValkeyServer) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = server.client()
        self.client.flushall()
        self.ledger = Ledger(settings_for(server))
        self.model = Model()
        self.started: dict[str, int] = {}

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.client.close()
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def pick(self, number: int) -> ModelRun:
        runs = self.model.runs + [run for run in self.model.runs if run.live] * 3
        return runs[number % len(runs)]

    def some_run(self) -> bool:
        return bool(self.model.runs)

    def some_lease(self) -> bool:
        return any(run.lease for run in self.model.runs)

    def pick_lease(self, number: int) -> tuple[ModelRun, Lease]:
        given = [(run, run.lease) for run in self.model.runs if run.lease is not None]
        return given[number % len(given)]

    @precondition(lambda self: len(self.model.runs) < 12)
    @rule(
        session=st.sampled_from(SESSIONS),
        on_busy=st.sampled_from([None, None, "reject", "cancel_running"]),
    )
    def submit(self, session: str | None, on_busy: str | None) -> None:
        busy = self.model.live(session) if session else []
        new = submission(session=session, on_busy=on_busy)
        try:
            assert self.run(self.ledger.submissions.submit(new, b"message"))
        except SessionBusyError:
            assert busy
            assert on_busy == "reject"
            return
        assert not (busy and on_busy == "reject")
        if busy and on_busy == "cancel_running":
            busy[0].cancelled = True
        self.model.runs.append(ModelRun(new.id, len(self.model.runs), session))

    @precondition(some_run)
    @rule(number=PICK)
    def claim(self, number: int) -> None:
        run = self.pick(number)
        expected = self.model.claim(run)
        claim = self.run(self.ledger.leases.claim(run.id, "w", uuid.uuid4().hex, LONG_MS, None))
        assert claim.status is expected
        if claim.lease is not None:
            run.state, run.lease, run.unserved = RunState.RUNNING, claim.lease, False
            if run.session is not None:
                assert run.number >= self.started.get(run.session, -1)
                self.started[run.session] = run.number

    @precondition(some_lease)
    @rule(number=PICK)
    def settle(self, number: int) -> None:
        run, lease = self.pick_lease(number)
        _, seq = self.run(self.ledger.queries.state(run.id))
        settled = self.run(self.ledger.leases.settle(lease, TASK, seq, END))
        if run.state is RunState.RUNNING:
            assert settled.result is WriteResult.SETTLED
            self.end(run)
            followers = self.model.live(run.session) if run.session else []
            expected = (followers[0].id,) if followers else ()
            assert settled.woken == expected

    @precondition(some_lease)
    @rule(number=PICK)
    def release(self, number: int) -> None:
        run, lease = self.pick_lease(number)
        if run.state is RunState.RUNNING:
            _, seq = self.run(self.ledger.queries.state(run.id))
            call = self.ledger.leases.requeue(lease, seq, outcome="released", reason="r")
            assert self.run(call) is WriteResult.REQUEUED
            run.state = RunState.QUEUED

    @precondition(some_run)
    @rule(number=PICK)
    def cancel(self, number: int) -> None:
        run = self.pick(number)
        assert self.run(self.ledger.cancellation.cancel(run.id, "enough")) == run.live
        if run.state is RunState.QUEUED:
            self.end(run, RunState.CANCELLED)
        elif run.live:
            run.cancelled = True

    @precondition(some_run)
    @rule(number=PICK)
    def a_worker_does_not_serve_it(self, number: int) -> None:
        run = self.pick(number)
        held = self.run(self.ledger.held.hold_unserved(run.id, TASK))
        assert (held == "held") == (run.state is RunState.QUEUED)
        if run.state is RunState.QUEUED and not self.model.waits(run):
            run.unserved = True

    @rule()
    def a_worker_that_serves_it_registers(self) -> None:
        waiting = [run for run in self.model.runs if run.unserved and run.state is RunState.QUEUED]
        assert self.run(self.ledger.held.release_served(0, {TASK})) == len(waiting)
        for run in waiting:
            run.unserved = False

    @precondition(some_lease)
    @rule(number=PICK)
    def lose_the_worker(self, number: int) -> None:
        run, _ = self.pick_lease(number)
        if run.state is RunState.RUNNING:
            self.run(lapse(self.ledger, run.id))
            self.reap()

    @rule()
    def reap(self) -> None:
        found = self.run(reap(self.ledger))
        self.run(self.ledger.maintenance.published(0, found.to_publish))
        for run_id in found.restarted:
            self.by_id(run_id).state = RunState.QUEUED
        for run_id, token, _ in found.to_end:
            run = self.by_id(run_id)
            assert run.live
            self.run(self.ledger.leases.end_unclaimed(run_id, TASK, END, token))
            self.end(run)

    @precondition(some_run)
    @rule(number=PICK)
    def look_at_a_held_run(self, number: int) -> None:
        run = self.pick(number)
        self.run(touch(self.ledger, "ZADD", run.id, "held", "XX", 1, run.id))
        ending = [run_id for run_id, _ in self.run(self.ledger.held.reap(0))]
        assert (run.id in ending) == (run.unserved and run.live)

    def by_id(self, run_id: str) -> ModelRun:
        return next(run for run in self.model.runs if run.id == run_id)

    def end(self, run: ModelRun, state: RunState = RunState.SUCCEEDED) -> None:
        run.state, run.unserved = state, False

    @invariant()
    def records_and_indexes_agree(self) -> None:
        assert audit(self.client, self.ledger.keys) == []
        for run in self.model.runs:
            key = f"{self.ledger.keys.shard_prefix(0)}run:{run.id}"
            found: Any = self.client.hget(key, "held")
            held = (found or b"").decode()
            if run.state is not RunState.QUEUED:
                assert held == ""
            elif self.model.waits(run):
                assert held == f"session:{run.session}"
            else:
                assert held == (f"unserved:{TASK}" if run.unserved else "")


@pytest.mark.parametrize("examples", forms(short=[8], thorough=[60]))
def test_the_scripts_keep_the_order_of_sessions(valkey: ValkeyServer, examples: int) -> None:
    run_state_machine_as_test(
        lambda: SessionsMachine(valkey),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
