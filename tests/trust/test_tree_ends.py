"""The end of a tree of runs on two workers: cancelled, timed out, or lost with its root."""

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from skillfleet.contracts import RunState, RunStatus
from skillfleet.errors import RunCancelled, RunFailed, RunTimedOut
from skillfleet_producer import Fleet, RunHandle, Settings
from tests.support import acl
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import shortest, wait_until

QUICK: dict[str, Any] = {"lease_seconds": 3, "reap_seconds": 0.2}
CHANCE = random.Random(7)


@pytest.fixture(scope="module")
def woods() -> Iterator[ValkeyServer]:
    """A server with a worker for each of two queues."""
    with (
        running_server() as server,
        FleetWorker(server, "tests.trust.near", **QUICK),
        FleetWorker(server, "tests.trust.distant", **QUICK),
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
        FleetWorker(woods, "tests.trust.near", namespace="lost", **QUICK) as doomed,
        FleetWorker(woods, "tests.trust.distant", namespace="lost", **QUICK),
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


def test_a_root_that_starts_again_takes_its_running_children_back(woods: ValkeyServer) -> None:
    with (
        FleetWorker(woods, "tests.trust.near", namespace="again", **QUICK) as doomed,
        FleetWorker(woods, "tests.trust.distant", namespace="again", **QUICK),
        Fleet(settings=settings(woods, "again")) as fleet,
    ):
        root = fleet.enqueue("tree.deepens", {"levels": 1, "width": 3})
        before = {run.id for run in all_run(fleet, root, 4)}
        doomed.kill()
        with FleetWorker(woods, "tests.trust.near", namespace="again", **QUICK):
            wait_until(lambda: root.status().attempt == 2, what="the root's second attempt")
            assert {run.id for run in all_run(fleet, root, 4)} == before
            assert root.cancel("enough")
            assert {run.state for run in ended(fleet, root)} == {RunState.CANCELLED}
