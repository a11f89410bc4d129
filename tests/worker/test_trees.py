"""Limits of a tree of runs: cycles, and budgets that all its runs share."""

from collections.abc import Iterator

import pytest

from skillfleet.contracts import Budget, RunState
from skillfleet.errors import RunFailed, RunTimedOut
from skillfleet_producer import Fleet
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server


@pytest.fixture(scope="module")
def forest() -> Iterator[ValkeyServer]:
    with (
        running_server() as server,
        FleetWorker(server, "tests.auth.agents", reap_seconds=0.2),
    ):
        yield server


@pytest.fixture
def fleet(forest: ValkeyServer) -> Iterator[Fleet]:
    with Fleet(forest.producer_url) as fleet:
        yield fleet


@pytest.mark.parametrize("args", [{}, {"by_way_of": "calls_back"}])
def test_a_call_that_comes_back_to_itself_is_refused_as_a_cycle(
    fleet: Fleet, args: dict[str, str]
) -> None:
    with pytest.raises(RunFailed, match="cycle") as refused:
        fleet.enqueue("tree.circles", args).result(timeout=20)
    assert refused.value.code == "limit_exceeded"


def test_a_tree_makes_as_many_calls_as_its_budget_allows(fleet: Fleet) -> None:
    budget = Budget(calls=3)
    assert fleet.enqueue("tree.fans", {"count": 3}, budget=budget).result(timeout=20) == 3
    run = fleet.enqueue("tree.fans", {"count": 4}, budget=budget)
    with pytest.raises(RunFailed, match="budget of calls") as refused:
        run.result(timeout=20)
    assert refused.value.code == "budget_exhausted"
    assert run.status().children == 3


def test_a_called_run_shares_its_callers_budget_of_calls(fleet: Fleet) -> None:
    """One call for the run between, and two of three for the leaves."""
    run = fleet.enqueue("tree.fans_below", {"count": 3}, budget=Budget(calls=3))
    with pytest.raises(RunFailed) as refused:
        run.result(timeout=20)
    assert refused.value.code == "budget_exhausted"
    run = fleet.enqueue("tree.fans_below", {"count": 2}, budget=Budget(calls=3))
    assert run.result(timeout=20) == 2


@pytest.mark.parametrize("skill", ["tree.thinks", "tree.thinks_below"])
def test_a_tree_is_stopped_when_its_tokens_are_used_up(fleet: Fleet, skill: str) -> None:
    enough = fleet.enqueue(skill, {"calls": 3, "tokens": 10}, budget=Budget(tokens=31))
    assert enough.result(timeout=20) == 3
    run = fleet.enqueue(skill, {"calls": 500, "tokens": 10}, budget=Budget(tokens=30))
    with pytest.raises(RunFailed, match="budget of tokens") as stopped:
        run.result(timeout=20)
    assert stopped.value.code == "budget_exhausted"
    assert run.status().state is RunState.FAILED


def test_tokens_without_a_budget_are_nobodys_business(fleet: Fleet) -> None:
    run = fleet.enqueue("tree.thinks", {"calls": 3, "tokens": 10**6})
    assert run.result(timeout=20) == 3


@pytest.mark.parametrize("skill", ["tree.leaf", "tree.waits_below"])
def test_a_tree_ends_with_its_budget_of_time_and_says_so(fleet: Fleet, skill: str) -> None:
    run = fleet.enqueue(skill, {"seconds": 60}, budget=Budget(seconds=0.5))
    with pytest.raises(RunTimedOut, match="budget of time") as over:
        run.result(timeout=20)
    assert over.value.code == "budget_exhausted"


def test_a_deadline_before_the_budgets_end_is_a_deadline(fleet: Fleet) -> None:
    run = fleet.enqueue("tree.leaf", {"seconds": 60}, timeout=0.3, budget=Budget(seconds=60))
    with pytest.raises(RunTimedOut) as over:
        run.result(timeout=20)
    assert over.value.code == "deadline_exceeded"


def test_a_run_whose_time_is_used_up_in_the_queue_says_so_too(fleet: Fleet) -> None:
    run = fleet.enqueue("tree.leaf", queue="unread", budget=Budget(seconds=0.3))
    with pytest.raises(RunTimedOut) as over:
        run.result(timeout=20)
    assert over.value.code == "budget_exhausted"


def test_a_caller_narrows_the_budget_for_a_run_that_it_calls(fleet: Fleet) -> None:
    wide = Budget(calls=10)
    assert fleet.enqueue("tree.narrows", {"count": 2, "calls": 2}, budget=wide).result(20) == 2
    with pytest.raises(RunFailed) as refused:
        fleet.enqueue("tree.narrows", {"count": 3, "calls": 2}, budget=wide).result(timeout=20)
    assert refused.value.code == "budget_exhausted"
    with pytest.raises(RunFailed) as refused:
        fleet.enqueue("tree.narrows", {"count": 5, "calls": 9}, budget=Budget(calls=3)).result(20)
    assert refused.value.code == "budget_exhausted"


def test_a_caller_narrows_the_time_for_a_run_that_it_calls(fleet: Fleet) -> None:
    run = fleet.enqueue("tree.hurries", {"seconds": 60}, budget=Budget(seconds=60))
    with pytest.raises(RunFailed) as over:
        run.result(timeout=20)
    assert over.value.code == "budget_exhausted"
