"""Runs that call runs: one tree, one trace, limits, deadlines, and no child twice."""

from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from skillfleet.contracts import RunState, RunStatus
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet, RunHandle
from tests.worker.shared import Shared, StartWorker, wait_state


def called_by(fleet: Fleet, run: RunHandle) -> list[RunStatus]:
    return [each for each in fleet.runs(agent="kit", limit=500) if each.parent_id == run.id]


def test_a_called_run_knows_its_parent_its_root_and_its_trace(fleet: Fleet) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("caller") as span:
        run = fleet.enqueue("kit.nest", {"depth": 2})
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    assert run.result(timeout=20) == 2
    status = run.status()
    assert (status.children, status.parent_id, status.root_id) == (1, None, run.id)
    [child] = called_by(fleet, run)
    [grandchild] = called_by(fleet, fleet.run(child.id))
    assert (child.children, child.root_id) == (1, run.id)
    assert (grandchild.children, grandchild.root_id) == (0, run.id)
    assert {each.trace_id for each in (status, child, grandchild)} == {trace_id}


def test_calls_nest_only_so_deep(fleet: Fleet) -> None:
    assert fleet.enqueue("kit.nest", {"depth": 15}).result(timeout=30) == 15
    with pytest.raises(RunFailed, match="nested 16 deep") as caught:
        fleet.enqueue("kit.nest", {"depth": 16}).result(timeout=30)
    assert caught.value.code == "limit_exceeded"


def test_a_tree_of_runs_grows_only_so_large(own_fleet: Fleet, start_worker: StartWorker) -> None:
    start_worker("tests.worker.kit", max_tree_runs=20)
    assert own_fleet.enqueue("kit.parent", {"n": 19}).result(timeout=30) == sum(range(19))
    with pytest.raises(RunFailed, match="already holds 20 runs") as caught:
        own_fleet.enqueue("kit.parent", {"n": 20}).result(timeout=30)
    assert caught.value.code == "limit_exceeded"


@pytest.mark.parametrize(
    ("own", "of_call", "expected"), [(60, None, 60), (60, 600, 60), (60, 5, 5)], ids=str
)
def test_a_childs_deadline_is_never_later_than_its_parents(
    fleet: Fleet, own: float, of_call: float | None, expected: float
) -> None:
    run = fleet.enqueue("kit.deadline_of_child", {"timeout": of_call}, timeout=own)
    mine, childs = run.result(timeout=20)
    created = run.status().created_at.timestamp()
    assert mine - created == pytest.approx(own, abs=1)
    assert childs - created == pytest.approx(expected, abs=2)
    assert childs <= mine


def test_a_parents_deadline_ends_its_child(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.calls_sleeper", timeout=1.0)
    assert wait_state(run, RunState.TIMED_OUT).code == "deadline_exceeded"
    for child in called_by(fleet, run):
        ended = wait_state(fleet.run(child.id), RunState.TIMED_OUT, RunState.CANCELLED)
        assert ended.state.terminal


def test_a_retried_parent_does_not_run_its_finished_child_again(
    fleet: Fleet, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    run = fleet.enqueue("kit.retried_parent", {"journal": str(journal)})
    assert run.result(timeout=30) == "child 2"
    assert len(journal.read_text().splitlines()) == 1
    status = run.status()
    assert (status.attempt, status.retries, status.children) == (2, 1, 1)


def test_children_end_when_their_parent_has_ended(shared: Shared, tmp_path: Path) -> None:
    run = shared.fleet.enqueue("kit.leaves_a_child", {"journal": str(tmp_path / "journal")})
    assert run.result(timeout=20) == "gone"
    [child] = called_by(shared.fleet, run)
    assert wait_state(shared.fleet.run(child.id), RunState.CANCELLED).code == "parent_ended"
