"""The end of a tree of runs on two workers: cancelled, timed out, or lost with its root."""

import asyncio
import random
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from skillfleet.contracts import ReasonCode, RunState, RunStatus
from skillfleet.errors import RunCancelled, RunFailed, RunTimedOut
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_producer import Fleet, RunHandle, Settings
from tests.ledger.helpers import DONE, child_of, claimed, running, submitted
from tests.support import acl
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import shortest, wait_until

QUICK: dict[str, Any] = {"lease_seconds": 3, "reap_seconds": 0.2}
CHANCE = random.Random(7)
T = TypeVar("T")


@pytest.fixture(scope="module")
def woods() -> Iterator[ValkeyServer]:
    """A server with a worker for each of two queues."""
    with (
        running_server() as server,
        FleetWorker(server, "tests.auth.tree_agent", **QUICK),
        FleetWorker(server, "tests.auth.far_agent", **QUICK),
    ):
        yield server


@pytest.fixture
def fleet(woods: ValkeyServer) -> Iterator[Fleet]:
    with Fleet(woods.producer_url) as fleet:
        yield fleet


def settings(server: ValkeyServer, namespace: str, **more: Any) -> Settings:
    url = server.url_of(acl.PRODUCER, namespace)
    return Settings.load(redis_url=url, namespace=namespace, **more)


def tree_of(fleet: Fleet, root: RunHandle) -> list[RunStatus]:
    return [run for run in fleet.runs(limit=1000) if run.root_id == root.id]


def all_run(fleet: Fleet, root: RunHandle, count: int) -> list[RunStatus]:
    """The tree once so many of its runs are running."""

    def running() -> list[RunStatus]:
        tree = tree_of(fleet, root)
        return tree if [run.state for run in tree] == [RunState.RUNNING] * count else []

    return wait_until(running, 20, f"{count} runs of the tree") or []


def ended(fleet: Fleet, root: RunHandle) -> list[RunStatus]:
    """The tree once all of it has ended."""

    def over() -> list[RunStatus]:
        tree = tree_of(fleet, root)
        return tree if all(run.state.terminal for run in tree) else []

    return wait_until(over, 30, "the end of the tree") or []


def test_a_tree_three_deep_on_two_workers_stops_within_a_second_of_its_cancellation(
    fleet: Fleet,
) -> None:
    def seconds() -> float:
        root = fleet.enqueue("tree.deepens", {"levels": 3, "width": 2})
        tree = all_run(fleet, root, 15)
        assert len({run.worker for run in tree}) == 2
        began = time.monotonic()
        root.cancel("enough")
        tree = ended(fleet, root)
        took = time.monotonic() - began
        assert {run.state for run in tree} == {RunState.CANCELLED}
        with pytest.raises(RunCancelled, match="enough"):
            root.result(timeout=5)
        return took

    assert shortest(1, seconds) < 1


def test_no_run_escapes_a_cancellation_while_the_tree_grows(fleet: Fleet) -> None:
    """Wherever it strikes: before the first call, between two, or after the last."""
    for _ in range(12):
        root = fleet.enqueue("tree.deepens", {"levels": 3, "width": 3})
        wait_until(lambda root=root: root.status().state is RunState.RUNNING)  # type: ignore[misc]
        time.sleep(CHANCE.uniform(0, 0.1))
        root.cancel("enough")
        before = {run.id for run in ended(fleet, root)}
        assert {run.state for run in tree_of(fleet, root)} == {RunState.CANCELLED}
        assert {run.id for run in tree_of(fleet, root)} == before, (
            "the tree has grown after its end"
        )


def test_a_tree_ends_with_its_roots_time(fleet: Fleet) -> None:
    root = fleet.enqueue("tree.deepens", {"levels": 2, "width": 2}, timeout=8)
    all_run(fleet, root, 7)
    with pytest.raises(RunTimedOut):
        root.result(timeout=20)
    tree = ended(fleet, root)
    assert len(tree) == 7
    assert {run.state for run in tree} <= {RunState.TIMED_OUT, RunState.CANCELLED}


def test_what_a_lost_root_has_called_ends_with_it(woods: ValkeyServer) -> None:
    """Its worker is killed, and it may not start again."""
    with (
        FleetWorker(woods, "tests.auth.tree_agent", namespace="lost", **QUICK) as doomed,
        FleetWorker(woods, "tests.auth.far_agent", namespace="lost", **QUICK),
        Fleet(settings=settings(woods, "lost", max_deliveries=1)) as fleet,
    ):
        root = fleet.enqueue("tree.deepens", {"levels": 1, "width": 3})
        tree = all_run(fleet, root, 4)
        assert len({run.worker for run in tree}) == 2
        doomed.kill()
        with pytest.raises(RunFailed) as lost:
            root.result(timeout=30)
        assert lost.value.code == "worker_lost"
        below = [run for run in ended(fleet, root) if run.id != root.id]
        assert [(run.state, run.code) for run in below] == [
            (RunState.CANCELLED, "parent_ended")
        ] * 3


class Caller:
    """A worker of the test's own, which may die between any two requests."""

    def __init__(self, server: ValkeyServer) -> None:
        self.ledger = Ledger(Settings.load(redis_url=server.url))
        self.runner = asyncio.Runner()

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def calling(self) -> tuple[Lease, str]:
        """Hold a run that has called `kit.polls`, which runs on a real worker."""
        ledger = self.ledger
        root = self(running(self.ledger))
        child = child_of(root, root.run_id, agent="kit", skill="polls", args=b"{}", delay_ms=1)
        assert self(ledger.submissions.submit(child))
        wait_until(lambda: self(ledger.queries.state(child.id))[0] is RunState.RUNNING)
        return root, child.id

    def end_of(self, run_id: str) -> RunStatus:
        status = self.ledger.queries.status
        wait_until(lambda: self(status(run_id)).state.terminal, 30, "the end of the run")
        return self(status(run_id))


@pytest.fixture(scope="module")
def kit_server() -> Iterator[ValkeyServer]:
    with running_server() as server, FleetWorker(server, "tests.worker.kit", **QUICK):
        yield server


@pytest.fixture
def caller(kit_server: ValkeyServer) -> Iterator[Caller]:
    caller = Caller(kit_server)
    try:
        yield caller
    finally:
        caller(caller.ledger.close())
        caller.runner.close()


def test_a_worker_that_dies_after_a_runs_end_leaves_no_called_run_behind(caller: Caller) -> None:
    root, child = caller.calling()
    written = caller.ledger.leases.settle(root, "librarian.survey", root.seq, DONE)
    assert caller(written).result is WriteResult.SETTLED
    status = caller.end_of(child)
    assert (status.state, status.code) == (RunState.CANCELLED, "parent_ended")
    assert status.message == "the calling run ended succeeded"


def test_a_canceller_that_dies_after_its_first_request_has_the_whole_tree_ended(
    caller: Caller,
) -> None:
    """Its run has gone back to the queue meanwhile."""
    root, child = caller.calling()
    end = RunEnd(RunState.CANCELLED, ReasonCode.CANCELLED_BY_CALLER, "enough")
    ledger = caller.ledger
    assert caller(ledger.cancellation._cancel_one(root.run_id, end, only_mark="1"))[0] == "marked"
    caller(ledger.leases.requeue(root, root.seq, outcome="retry", reason="x", delay_ms=3_600_000))
    assert caller.end_of(root.run_id).message == "enough"
    assert caller.end_of(child).state is RunState.CANCELLED


def test_a_cancelled_run_that_is_given_back_ends_without_a_worker_that_takes_it(
    caller: Caller,
) -> None:
    lease = caller(running(caller.ledger, queue="unconsumed"))
    caller(caller.ledger.cancellation.cancel(lease.run_id, "enough", ReasonCode.BUDGET_EXHAUSTED))
    caller(caller.ledger.leases.requeue(lease, lease.seq, outcome="released", reason="drain"))
    status = caller.end_of(lease.run_id)
    assert (status.state, status.code) == (RunState.CANCELLED, "budget_exhausted")


def test_a_run_that_is_released_without_end_is_given_up(caller: Caller) -> None:
    new = caller(submitted(caller.ledger, queue="unconsumed", max_deliveries=1))
    for _ in range(101):
        lease = caller(claimed(caller.ledger, new.id))
        caller(caller.ledger.leases.requeue(lease, lease.seq, outcome="released", reason="x"))
    status = caller.end_of(new.id)
    assert (status.state, status.code) == (RunState.DEAD, "worker_lost")
    assert "more than a hundred times" in str(status.message)


def test_a_root_that_starts_again_takes_its_running_children_back(woods: ValkeyServer) -> None:
    with (
        FleetWorker(woods, "tests.auth.tree_agent", namespace="again", **QUICK) as doomed,
        FleetWorker(woods, "tests.auth.far_agent", namespace="again", **QUICK),
        Fleet(settings=settings(woods, "again")) as fleet,
    ):
        root = fleet.enqueue("tree.deepens", {"levels": 1, "width": 3})
        before = {run.id for run in all_run(fleet, root, 4)}
        doomed.kill()
        with FleetWorker(woods, "tests.auth.tree_agent", namespace="again", **QUICK):
            wait_until(lambda: root.status().attempt == 2, what="the root's second attempt")
            assert {run.id for run in all_run(fleet, root, 4)} == before
            assert root.cancel("enough")
            assert {run.state for run in ended(fleet, root)} == {RunState.CANCELLED}
