"""The example of three agents, on two worker processes that take signed runs only."""

import time
from collections.abc import Iterator

import orjson
import pytest

from skillfleet.contracts import Budget, RunState, RunStatus
from skillfleet.errors import RunCancelled, RunFailed
from skillfleet_producer import Fleet
from tests.auth.keys import Keys
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import shortest, wait_until

READER = {"sub": "ada", "scopes": ["library:read"]}


@pytest.fixture(scope="module")
def newsroom(keys: Keys) -> Iterator[ValkeyServer]:
    """A server, and a worker for each of the example's two queues."""
    with running_server() as server:
        trusted = keys.worker_settings()
        with (
            FleetWorker(server, "examples.three_agents.editors", **trusted),
            FleetWorker(server, "examples.three_agents.research", **trusted),
        ):
            yield server


@pytest.fixture
def newsdesk(newsroom: ValkeyServer, keys: Keys) -> Iterator[Fleet]:
    with Fleet(settings=keys.settings(newsroom.producer_url)) as fleet:
        yield fleet


def tree_of(fleet: Fleet, root: str) -> dict[str, RunStatus]:
    """All runs of a tree, by id."""
    return {run.id: run for run in fleet.runs(limit=1000) if run.root_id == root}


def test_the_agents_find_and_call_each_other_as_one_tree_and_one_trace(
    newsdesk: Fleet, newsroom: ValkeyServer
) -> None:
    budget = Budget(calls=7, seconds=60)
    run = newsdesk.enqueue("editor.brief", {"topic": "bees"}, auth=READER, budget=budget)
    assert run.result(timeout=30)["passed"] is True
    tree = tree_of(newsdesk, run.id)
    shape = sorted(
        (each.name, tree[each.parent_id].name if each.parent_id else "") for each in tree.values()
    )
    assert shape == sorted(
        [
            ("editor.brief", ""),
            *[("researcher.research", "editor.brief")] * 3,
            *[("reviewer.check", "researcher.research")] * 3,
            ("reviewer.check", "editor.brief"),
        ]
    )
    assert len({each.trace_id for each in tree.values()}) == 1
    by_queue = {each.queue: each.worker for each in tree.values()}
    assert set(by_queue) == {"editors", "research"}
    assert by_queue["editors"] != by_queue["research"]
    deadlines = {each.deadline for each in tree.values()}
    assert deadlines == {tree[run.id].deadline}, "the budget of time is everybody's deadline"
    with newsroom.client() as client:
        messages = [client.hget(f"{{skillfleet:0}}:run:{run_id}", "headers") for run_id in tree]
    assert all("skillfleet-token" in orjson.loads(message or b"{}") for message in messages)


def test_the_tree_shares_its_budget_of_calls(newsdesk: Fleet) -> None:
    run = newsdesk.enqueue("editor.brief", {"topic": "bees"}, auth=READER, budget=Budget(calls=6))
    with pytest.raises(RunFailed) as refused:
        run.result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(tree_of(newsdesk, run.id)) <= 7


def test_the_callers_scopes_go_down_the_tree_and_nothing_else_does(newsdesk: Fleet) -> None:
    with pytest.raises(RunFailed, match="library:read") as refused:
        newsdesk.enqueue("editor.brief", {"topic": "bees"}, auth={"sub": "eve"}).result(timeout=30)
    assert refused.value.code == "missing_scopes"
    publishing = newsdesk.enqueue("editor.brief_and_publish", {"text": "!"}, auth=READER)
    with pytest.raises(RunFailed, match="library:publish"):
        publishing.result(timeout=30)
    chief = READER | {"scopes": ["library:publish"]}
    published = newsdesk.enqueue("editor.brief_and_publish", {"text": "!"}, auth=chief)
    assert published.result(timeout=30) == "published by ada: !"


def test_cancelling_the_root_stops_the_whole_tree(newsdesk: Fleet) -> None:
    def seconds() -> float:
        args = {"topic": "bees", "seconds": 60}
        run = newsdesk.enqueue("editor.brief", args, auth=READER)

        def states() -> list[RunState]:
            return [each.state for each in tree_of(newsdesk, run.id).values()]

        wait_until(
            lambda: states() == [RunState.RUNNING] * 4,
            what="the root and its three children to run",
        )
        began = time.monotonic()
        run.cancel("enough")
        wait_until(lambda: all(state.terminal for state in states()), what="the end of the tree")
        took = time.monotonic() - began
        with pytest.raises(RunCancelled, match="enough"):
            run.result(timeout=5)
        assert set(states()) == {RunState.CANCELLED}
        return took

    assert shortest(1, seconds) < 1
