"""Calls of remote agents within the budgets of their trees."""

from datetime import UTC, datetime, timedelta

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.contracts import Budget
from skillfleet.errors import RunFailed, RunTimedOut
from skillfleet.ports.a2a import CallOptions
from skillfleet.testing.local_context import LocalRunScope
from skillfleet_adapters.a2a.client import HttpA2AProvider
from skillfleet_adapters.a2a.host_allowlist import HostAllowlist
from skillfleet_adapters.a2a.transport import GuardedTransport
from skillfleet_producer import Fleet
from tests.adapters.a2a.remote_agent import RemoteAgent, ask
from tests.support.waiting import wait_until


def test_a_remote_call_counts_as_a_call_of_the_tree(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    args = {"target": remote_agent.url, "count": 3}
    assert caller.enqueue("caller.asks_often", args, budget=Budget(calls=3)).result(30) == 3
    before = len(remote_agent.noted("asked"))
    with pytest.raises(RunFailed, match="budget of calls") as refused:
        caller.enqueue("caller.asks_often", args, budget=Budget(calls=2)).result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(remote_agent.noted("asked")) == before + 2, "what is not paid for never leaves"


@pytest.mark.parametrize(("calls", "whole", "most"), [(1, 9, 1), (9, 3, 2)])
def test_a_called_runs_remote_calls_count_for_all_above_it(
    caller: Fleet, remote_agent: RemoteAgent, calls: int, whole: int, most: int
) -> None:
    """One of the whole tree's calls is that of the run between."""
    before = len(remote_agent.noted("asked"))
    args = {"target": remote_agent.url, "count": 5, "calls": calls}
    with pytest.raises(RunFailed) as refused:
        caller.enqueue("caller.hands_down", args, budget=Budget(calls=whole)).result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(remote_agent.noted("asked")) == before + most


THINKS = {"rounds": 50, "usage": {"input_tokens": 9, "output_tokens": 1}}


def test_tokens_that_a_remote_agent_reports_are_charged_to_the_tree(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    before = len(remote_agent.noted("cancelled"))
    args = {"target": remote_agent.url, "skill": "think", "args": THINKS}
    run = caller.enqueue("caller.asks", args, budget=Budget(tokens=30))
    with pytest.raises(RunFailed, match="budget of tokens") as stopped:
        run.result(timeout=30)
    assert stopped.value.code == "budget_exhausted"
    wait_until(lambda: len(remote_agent.noted("cancelled")) > before, what="the task's cancel")
    few = args | {"args": THINKS | {"rounds": 2}}
    answer = caller.enqueue("caller.asks", few, budget=Budget(tokens=30)).result(timeout=30)
    assert answer["result"] == "thought"


def test_a_remote_call_is_stopped_at_its_own_budget_of_tokens(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    before = len(remote_agent.noted("cancelled"))
    with pytest.raises(RunFailed, match="call's budget of tokens") as stopped:
        ask(caller, remote_agent.url, "think", args=THINKS, budget={"tokens": 30})
    assert stopped.value.code == "budget_exhausted"
    wait_until(lambda: len(remote_agent.noted("cancelled")) > before, what="the task's cancel")


@pytest.mark.parametrize("usage", [{"input_tokens": -1000}, {"input_tokens": 1e300}])
def test_what_a_remote_agent_reports_cannot_fill_a_budget_or_break_the_count(
    caller: Fleet, remote_agent: RemoteAgent, usage: dict[str, float]
) -> None:
    args = {"target": remote_agent.url, "skill": "think", "args": {"rounds": 1, "usage": usage}}
    assert caller.enqueue("caller.asks", args).result(timeout=30)["result"] == "thought"
    run = caller.enqueue("caller.asks", args, budget=Budget(tokens=10))
    if usage["input_tokens"] < 0:
        assert run.result(timeout=30)["result"] == "thought"
    else:
        with pytest.raises(RunFailed, match="budget of tokens"):
            run.result(timeout=30)


def test_a_budget_of_time_bounds_a_remote_call_and_says_so(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    with pytest.raises(RunFailed) as over:
        ask(caller, remote_agent.url, "wait", budget={"seconds": 0.5})
    assert over.value.code == "budget_exhausted"
    args = {"target": remote_agent.url, "skill": "wait"}
    with pytest.raises(RunTimedOut) as tree:
        caller.enqueue("caller.asks", args, budget=Budget(seconds=0.5)).result(timeout=30)
    assert tree.value.code == "budget_exhausted"


@pytest.mark.parametrize(("seconds", "timeout", "shared"), [(0.3, None, True), (60, 0.3, False)])
async def test_a_call_that_its_callers_deadline_ends_is_the_deadlines(
    remote_agent: RemoteAgent, seconds: float, timeout: float | None, *, shared: bool
) -> None:
    """The run ends `timed_out` also where the call is over a moment before the deadline."""
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    ctx = LocalRunContext(auth=NoAuth())
    ctx.deadline = deadline
    provider = HttpA2AProvider(GuardedTransport(HostAllowlist.parse("127.0.0.1"), 1000), 60)
    options = CallOptions(timeout=timeout)
    with pytest.raises(RunTimedOut) as over:
        await provider.open(LocalRunScope(ctx)).call(remote_agent.url, "wait", options=options)
    assert over.value.deadline == (deadline if shared else None)
    await provider.aclose()
