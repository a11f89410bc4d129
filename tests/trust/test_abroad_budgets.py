"""Calls of agents elsewhere within the budgets of their trees."""

import pytest

from skillfleet.contracts import Budget
from skillfleet.errors import RunFailed, RunTimedOut
from skillfleet_producer import Fleet
from tests.support.waiting import wait_until
from tests.trust.elsewhere import Elsewhere, asking


def test_a_call_elsewhere_counts_as_a_call_of_the_tree(abroad: Fleet, elsewhere: Elsewhere) -> None:
    args = {"target": elsewhere.url, "count": 3}
    assert abroad.enqueue("abroad.asks_often", args, budget=Budget(calls=3)).result(30) == 3
    before = len(elsewhere.noted("asked"))
    with pytest.raises(RunFailed, match="budget of calls") as refused:
        abroad.enqueue("abroad.asks_often", args, budget=Budget(calls=2)).result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(elsewhere.noted("asked")) == before + 2, "what is not paid for never leaves"


@pytest.mark.parametrize(("calls", "whole", "most"), [(1, 9, 1), (9, 3, 2)])
def test_a_called_runs_calls_elsewhere_count_for_all_above_it(
    abroad: Fleet, elsewhere: Elsewhere, calls: int, whole: int, most: int
) -> None:
    """One of the whole tree's calls is that of the run between."""
    before = len(elsewhere.noted("asked"))
    args = {"target": elsewhere.url, "count": 5, "calls": calls}
    with pytest.raises(RunFailed) as refused:
        abroad.enqueue("abroad.hands_down", args, budget=Budget(calls=whole)).result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(elsewhere.noted("asked")) == before + most


THINKS = {"rounds": 50, "usage": {"input_tokens": 9, "output_tokens": 1}}


def test_tokens_that_an_agent_elsewhere_reports_are_charged_to_the_tree(
    abroad: Fleet, elsewhere: Elsewhere
) -> None:
    before = len(elsewhere.noted("cancelled"))
    args = {"target": elsewhere.url, "skill": "think", "args": THINKS}
    run = abroad.enqueue("abroad.asks", args, budget=Budget(tokens=30))
    with pytest.raises(RunFailed, match="budget of tokens") as stopped:
        run.result(timeout=30)
    assert stopped.value.code == "budget_exhausted"
    wait_until(lambda: len(elsewhere.noted("cancelled")) > before, what="the task's cancel")
    few = args | {"args": THINKS | {"rounds": 2}}
    answer = abroad.enqueue("abroad.asks", few, budget=Budget(tokens=30)).result(timeout=30)
    assert answer["result"] == "thought"


def test_a_call_elsewhere_is_stopped_at_its_own_budget_of_tokens(
    abroad: Fleet, elsewhere: Elsewhere
) -> None:
    before = len(elsewhere.noted("cancelled"))
    with pytest.raises(RunFailed, match="call's budget of tokens") as stopped:
        asking(abroad, elsewhere.url, "think", args=THINKS, budget={"tokens": 30})
    assert stopped.value.code == "budget_exhausted"
    wait_until(lambda: len(elsewhere.noted("cancelled")) > before, what="the task's cancel")


@pytest.mark.parametrize("usage", [{"input_tokens": -1000}, {"input_tokens": 1e300}])
def test_what_an_agent_elsewhere_reports_cannot_fill_a_budget_or_break_the_count(
    abroad: Fleet, elsewhere: Elsewhere, usage: dict[str, float]
) -> None:
    args = {"target": elsewhere.url, "skill": "think", "args": {"rounds": 1, "usage": usage}}
    assert abroad.enqueue("abroad.asks", args).result(timeout=30)["result"] == "thought"
    run = abroad.enqueue("abroad.asks", args, budget=Budget(tokens=10))
    if usage["input_tokens"] < 0:
        assert run.result(timeout=30)["result"] == "thought"
    else:
        with pytest.raises(RunFailed, match="budget of tokens"):
            run.result(timeout=30)


def test_a_budget_of_time_bounds_a_call_elsewhere_and_says_so(
    abroad: Fleet, elsewhere: Elsewhere
) -> None:
    with pytest.raises(RunFailed) as over:
        asking(abroad, elsewhere.url, "wait", budget={"seconds": 0.5})
    assert over.value.code == "budget_exhausted"
    args = {"target": elsewhere.url, "skill": "wait"}
    with pytest.raises(RunTimedOut) as tree:
        abroad.enqueue("abroad.asks", args, budget=Budget(seconds=0.5)).result(timeout=30)
    assert tree.value.code == "budget_exhausted"
