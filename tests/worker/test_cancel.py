"""cancel() stops whatever the run is doing, wherever it is."""

from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunCancelled
from skillfleet_producer import Fleet, RunHandle
from tests.support.waiting import wait_until
from tests.worker.shared import Shared, wait_kind, wait_state


def assert_cancelled(run: RunHandle, reason: str = "enough") -> None:
    with pytest.raises(RunCancelled, match=reason):
        run.result(timeout=20)
    assert run.status().state is RunState.CANCELLED
    *_, final = run.events()
    assert final.state is RunState.CANCELLED


def family(fleet: Fleet, run_id: str, agent: str = "kit") -> list[RunHandle]:
    """The run's children and theirs."""
    found = [fleet.run(each.id) for each in fleet.runs(agent=agent) if each.parent_id == run_id]
    return found + [each for child in found for each in family(fleet, child.id, agent)]


def test_cancel_stops_a_handler_that_only_awaits(shared: Shared) -> None:
    run = shared.fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    assert run.cancel("enough")
    assert_cancelled(run)


def test_cancel_stops_a_handler_that_polls(shared: Shared) -> None:
    run = shared.fleet.enqueue("kit.polls")
    wait_kind(run, "progress")
    assert run.cancel("enough")
    assert_cancelled(run)


def test_an_order_of_which_the_record_knows_nothing_ends_no_run(shared: Shared) -> None:
    run = shared.fleet.enqueue("kit.sleep", {"seconds": 1})
    wait_kind(run, "progress")
    with shared.server.client() as client:
        channel = f"{{skillfleet:0}}:worker:{run.status().worker}"
        for order in (f"cancel {run.id} forged", f"cancel {run.id}", "cancel", "", b"\xff x y"):
            assert client.publish(channel, order) == 1
    assert run.result(timeout=20) == 1
    assert run.status().cancel_requested is None


def test_a_second_cancel_changes_nothing(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    assert run.cancel("enough")
    run.cancel("another reason")
    assert_cancelled(run)
    assert not run.cancel("too late")
    assert run.status().message == "enough"


def test_a_queued_run_that_is_cancelled_never_starts(fleet: Fleet, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    # No worker consumes this queue yet.
    arguments = {"seconds": 0, "journal": str(journal)}
    run = fleet.enqueue("kit.sleep", arguments, queue="unconsumed")
    assert run.cancel("enough")
    assert_cancelled(run)
    assert run.status().attempt == 0
    with fleet.__class__(fleet.settings.redis_url) as other:
        assert other.run(run.id).status().state is RunState.CANCELLED
    assert not journal.exists()


def test_a_cancelled_runs_message_is_dropped_by_the_worker_that_gets_it(
    loop: Shared, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    arguments = {"seconds": 0, "journal": str(journal)}
    run = loop.fleet.enqueue("kit.sleep", arguments, queue="parked")
    run.cancel("enough")
    with loop.server.client() as client:
        assert client.lmove("parked", "celery", "RIGHT", "LEFT")
        loop.fleet.enqueue("kit.add", {"x": 1}).result(timeout=20)
        wait_until(lambda: client.llen("celery") == 0)
    wait_until(lambda: f"run {run.id} is not executed" in loop.worker.text())
    assert not journal.exists()


def test_a_delayed_run_that_is_cancelled_never_starts(fleet: Fleet, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run = fleet.enqueue("kit.sleep", {"seconds": 0, "journal": str(journal)}, delay=0.5)
    assert run.status().state is RunState.QUEUED
    assert run.cancel("enough")
    assert_cancelled(run)
    later = fleet.enqueue("kit.add", {"x": 1}, delay=0.6)
    assert later.result(timeout=20) == 2
    assert not journal.exists()


def test_cancel_reaches_a_run_that_waits_for_a_call_and_all_runs_below(shared: Shared) -> None:
    run = shared.fleet.enqueue("kit.calls_sleeper")
    wait_until(lambda: len(family(shared.fleet, run.id)) == 2, what="two generations of children")
    child, grandchild = family(shared.fleet, run.id)
    wait_kind(grandchild, "innermost")
    run.cancel("enough")
    assert_cancelled(run)
    for each in (child, grandchild):
        assert_cancelled(each, "parent was cancelled")
        assert each.status().code == "parent_ended"


def test_a_handler_that_resists_is_left_behind_and_the_worker_goes_on(
    shared: Shared, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    try:
        run = shared.fleet.enqueue("kit.stubborn", {"release": str(release)})
        wait_kind(run, "progress")
        run.cancel("enough")
        assert_cancelled(run)
        assert shared.fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2
        assert f"run {run.id} resists its cancellation" in shared.worker.text()
    finally:
        release.touch()


def test_a_finished_run_cannot_be_cancelled(fleet: Fleet) -> None:
    run = fleet.enqueue("kit.add", {"x": 1})
    assert run.result(timeout=20) == 2
    assert not run.cancel()
    assert run.status().state is RunState.SUCCEEDED


def test_a_deadline_stops_a_run_and_keeps_what_it_wrote(shared: Shared) -> None:
    run = shared.fleet.enqueue("kit.sleep", {"seconds": 600}, timeout=0.7)
    status = wait_state(run, RunState.TIMED_OUT)
    assert status.code == "deadline_exceeded"
    assert "progress" in [event.kind for event in run.events()]
