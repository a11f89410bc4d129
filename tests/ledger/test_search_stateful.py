"""Any series of changes of runs leaves the indexes so that each search finds what it should.

Runs start, wait, end, expire, and are brought back by their key with other tags or in another
session. After every step the auditor finds each run in its indexes and no other, and pages of any
length, of one shard or of several, are what a filter of the model's runs gives.
"""

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
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
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import Lease, Submission
from skillfleet_ledger.runs.search import RunFilter, RunPage
from tests.ledger.audit import audit
from tests.ledger.helpers import LONG_MS, claimed, reap, settings_for, submission, touch
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer

T = TypeVar("T")
MOST_RUNS = 12
ENDS = (RunState.SUCCEEDED, RunState.FAILED, RunState.TIMED_OUT)
PICK = st.integers(0, 99)
AGENTS = st.sampled_from(["librarian", "writer"])
TAGS = st.dictionaries(st.sampled_from(["tenant", "plan"]), st.sampled_from(["a", "b=|"]))
SESSIONS = st.sampled_from([None, "/chat", "ann|3/a\nb=|"])
STATES = st.sampled_from([None, *RunState])


@dataclass
class Known:
    """A run as the model knows it."""

    new: Submission
    created_ms: int
    state: RunState = RunState.QUEUED
    lease: Lease | None = None


class SearchMachine(RuleBasedStateMachine):
    """A state machine that drives a ledger and searches it."""

    def __init__(self, server: ValkeyServer, shards: int) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = server.client()
        self.client.flushall()
        self.ledger = Ledger(settings_for(server, shards=shards))
        self.runs: list[Known] = []

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.client.close()
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def pick(self, number: int, *states: RunState) -> Known:
        fitting = [run for run in self.runs if run.state in states]
        return fitting[number % len(fitting)]

    def has(self, *states: RunState) -> bool:
        return any(run.state in states for run in self.runs)

    @precondition(lambda self: len(self.runs) < MOST_RUNS)
    @rule(agent=AGENTS, tags=TAGS, session=SESSIONS, delayed=st.booleans())
    def submit(
        self, agent: str, tags: Mapping[str, str], session: str | None, *, delayed: bool
    ) -> None:
        delay = LONG_MS if delayed and session is None else 0
        run_id = self.ledger.keys.new_id(beside=session)
        values = {"id": run_id, "session": session, "delay_ms": delay}
        self.submit_one(submission(agent=agent, tags=tags, **values))

    def submit_one(self, new: Submission) -> None:
        assert self.run(self.ledger.submissions.submit(new))
        created = self.run(touch(self.ledger, "HGET", new.id, f"run:{new.id}", "created"))
        self.runs.append(Known(new, int(created)))

    @precondition(lambda self: self.has(RunState.QUEUED))
    @rule(number=PICK)
    def claim(self, number: int) -> None:
        run = self.pick(number, RunState.QUEUED)
        if not run.new.delay_ms and self.has_turn(run):
            run.lease = self.run(claimed(self.ledger, run.new.id))
            run.state = RunState.RUNNING

    def has_turn(self, run: Known) -> bool:
        """True for a run that is the first of its session, or belongs to none."""
        session, live = run.new.session, (RunState.QUEUED, RunState.RUNNING)
        of_session = [each for each in self.runs if each.new.session == session]
        return session is None or run is next(each for each in of_session if each.state in live)

    @precondition(lambda self: self.has(RunState.RUNNING))
    @rule(number=PICK)
    def give_back(self, number: int) -> None:
        run = self.pick(number, RunState.RUNNING)
        assert run.lease is not None
        requeue = self.ledger.leases.requeue
        self.run(requeue(run.lease, run.lease.seq, outcome="retry", reason="x"))
        run.state = RunState.QUEUED

    @precondition(lambda self: self.has(RunState.RUNNING))
    @rule(number=PICK, state=st.sampled_from(ENDS))
    def settle(self, number: int, state: RunState) -> None:
        run = self.pick(number, RunState.RUNNING)
        assert run.lease is not None
        end = RunEnd(state, "code")
        self.run(self.ledger.leases.settle(run.lease, run.new.task, run.lease.seq, end))
        run.state = state

    @precondition(lambda self: self.has(RunState.QUEUED))
    @rule(number=PICK)
    def cancel(self, number: int) -> None:
        run = self.pick(number, RunState.QUEUED)
        assert self.run(self.ledger.cancellation.cancel(run.new.id, "enough"))
        run.state = RunState.CANCELLED

    @precondition(lambda self: self.has(*ENDS, RunState.CANCELLED))
    @rule(number=PICK, tags=TAGS, session=SESSIONS, again=st.booleans(), pruned_first=st.booleans())
    def expire(
        self,
        number: int,
        tags: Mapping[str, str],
        session: str | None,
        *,
        again: bool,
        pruned_first: bool,
    ) -> None:
        """Let an ended run expire; its key may bring it back, before its entries are pruned."""
        run = self.pick(number, *ENDS, RunState.CANCELLED)
        run_id, prefix = run.new.id, self.ledger.keys.prefix(run.new.id)
        gone = list(self.client.scan_iter(f"{prefix}*:{run_id}*"))
        self.client.delete(*gone, self.ledger.keys.result_key(run_id))
        entries: Any = self.client.zrange(f"{prefix}expiring", 0, -1)
        (entry,) = [each for each in entries if run_id.encode() in each]
        self.client.zadd(f"{prefix}expiring", {entry: 1})
        self.runs.remove(run)
        keys = self.ledger.keys
        if session is not None and keys.shard(session) != keys.shard(run_id):
            session = None
        back = replace(run.new, tags=tags, session=session, delay_ms=0)
        if again and not pruned_first:
            self.submit_one(back)
        self.run(reap(self.ledger, shard=keys.shard(run_id)))
        if again and pruned_first:
            self.submit_one(back)

    @precondition(lambda self: self.runs)
    @rule(
        state=STATES,
        agent=AGENTS | st.none(),
        tags=TAGS,
        session=SESSIONS,
        number=PICK,
        old=st.booleans(),
    )
    def search(
        self,
        state: RunState | None,
        agent: str | None,
        tags: Mapping[str, str],
        session: str | None,
        number: int,
        *,
        old: bool,
    ) -> None:
        oldest = 0 if old else self.runs[number % len(self.runs)].created_ms
        expected = [
            (run.created_ms, run.new.id)
            for run in self.runs
            if state in (None, run.state)
            and agent in (None, run.new.agent)
            and tags.items() <= run.new.tags.items()
            and session in (None, run.new.session)
            and run.created_ms >= oldest
        ]
        wanted, limit = RunFilter(state, agent, tags, oldest, session), 1 + number % 7
        found = [run.id for page in self.pages(wanted, limit) for run in page]
        assert found == [run_id for _, run_id in sorted(expected, reverse=True)]

    def pages(self, wanted: RunFilter, limit: int) -> list[RunPage]:
        pages = [self.run(self.ledger.search.page(wanted, limit=limit))]
        while (cursor := pages[-1].cursor) is not None:
            pages.append(self.run(self.ledger.search.page(wanted, limit=limit, after=cursor)))
        return pages

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        assert audit(self.client, self.ledger.keys) == []


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("examples", forms(short=[4], thorough=[25]))
def test_any_series_of_changes_leaves_indexes_that_find_all_runs(
    valkey: ValkeyServer, shards: int, examples: int
) -> None:
    run_state_machine_as_test(
        lambda: SearchMachine(valkey, shards),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_ids_are_ordered_by_their_bytes(valkey: ValkeyServer) -> None:
    """Of one millisecond, as Redis orders them; ids of plain Celery clients may be any text."""
    with asyncio.Runner() as runner:
        ledger = Ledger(settings_for(valkey))
        ids = ["-", "A", "a", "a-b", "ab", "a\n", "zé", "Z", "~", str(uuid.uuid4())]

        async def all_in_pages(limit: int) -> list[str]:
            found, cursor = [], None
            while True:
                page = await ledger.search.page(limit=limit, after=cursor)
                found += [run.id for run in page]
                if (cursor := page.cursor) is None:
                    return found

        async def written() -> None:
            for run_id in ids:
                await ledger.submissions.submit(submission(id=run_id))
                for key in ("index:all", "index:agent:librarian"):
                    await touch(ledger, "ZADD", run_id, key, 1000, run_id)
                await touch(ledger, "HSET", run_id, f"run:{run_id}", "created", 1000)

        runner.run(written())
        for limit in (1, 3, 20):
            found = runner.run(all_in_pages(limit))
            assert found == sorted(ids, key=str.encode, reverse=True)
        runner.run(ledger.close())
