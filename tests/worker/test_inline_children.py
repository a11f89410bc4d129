"""Calls in pools whose slots cannot be given back: the caller executes its children inline."""

import signal
from pathlib import Path

import celery
import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunCancelled, RunTimedOut
from skillfleet_producer import Fleet, RunHandle
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_kind, wait_state

QUICK = {"cancel_grace_seconds": 0.2, "abandon_seconds": 0.6, "reap_seconds": 0.2}
BLOCKING = pytest.mark.parametrize("pool", ["prefork", "threads"])


@BLOCKING
def test_parents_that_fill_all_slots_finish(
    start_worker: StartWorker, own_fleet: Fleet, pool: str
) -> None:
    start_worker("tests.worker.kit", pool=pool, concurrency=4)
    runs = own_fleet.enqueue_many("kit.parent", [{"n": 3}] * 40)
    assert [run.result(timeout=90) for run in runs] == [3] * 40
    assert {run.attempt for run in own_fleet.runs(limit=500)} == {1}


@BLOCKING
def test_calls_deeper_than_there_are_slots_finish(
    start_worker: StartWorker, own_fleet: Fleet, pool: str
) -> None:
    start_worker("tests.worker.kit", pool=pool, concurrency=1)
    assert own_fleet.enqueue("kit.nest", {"depth": 6}).result(timeout=60) == 6


@BLOCKING
def test_a_cancelled_caller_ends_with_what_it_executes(
    start_worker: StartWorker, own_fleet: Fleet, pool: str
) -> None:
    start_worker("tests.worker.kit", pool=pool, concurrency=1, **QUICK)
    root = own_fleet.enqueue("kit.nest", {"depth": 2, "seconds": 600})
    wait_kind(innermost(own_fleet, 3), "innermost")
    root.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        root.result(timeout=10)
    assert {wait_state(each, RunState.CANCELLED).attempt for each in nested(own_fleet)} == {1}
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2


def test_a_caller_s_deadline_ends_what_it_executes(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.kit", pool="prefork", concurrency=1, **QUICK)
    root = own_fleet.enqueue("kit.nest", {"depth": 1, "seconds": 600}, timeout=3)
    with pytest.raises(RunTimedOut):
        root.result(timeout=20)
    for each in nested(own_fleet):
        assert wait_state(each, RunState.TIMED_OUT, RunState.CANCELLED).attempt == 1
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2


@BLOCKING
def test_a_drain_gives_back_what_a_caller_executes(
    start_worker: StartWorker, own_fleet: Fleet, pool: str
) -> None:
    first = start_worker("tests.worker.kit", pool=pool, concurrency=1, drain_seconds=0.2, **QUICK)
    root = own_fleet.enqueue("kit.nest", {"depth": 1, "seconds": 2})
    wait_kind(innermost(own_fleet, 2), "innermost")
    first.send_signal(signal.SIGTERM)
    start_worker("tests.worker.kit")
    assert root.result(timeout=60) == 1
    assert {each.status().state for each in nested(own_fleet)} == {RunState.SUCCEEDED}


@BLOCKING
def test_a_child_that_its_caller_executes_has_the_time_limit_of_the_worker(
    start_worker: StartWorker, own_fleet: Fleet, server: ValkeyServer, pool: str
) -> None:
    options = ("--time-limit=2",)
    start_worker("tests.worker.kit", pool=pool, concurrency=1, options=options, **QUICK)
    with celery.Celery(broker=server.url, set_as_current=False) as client:
        arguments = {"depth": 1, "seconds": 600}
        client.send_task("kit.nest", kwargs=arguments, time_limit=60, ignore_result=True)
    child = wait_state(innermost(own_fleet, 2), RunState.TIMED_OUT)
    assert "time limit of 2 s" in (child.message or "")


def test_a_child_that_its_caller_executes_is_retried(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    start_worker("tests.worker.kit", pool="prefork", concurrency=1)
    journal = str(tmp_path / "journal")
    root = own_fleet.enqueue("kit.calls_retried", {"journal": journal})
    assert root.result(timeout=60) == "child 2"


def nested(fleet: Fleet) -> list[RunHandle]:
    return [fleet.run(run.id) for run in fleet.runs(limit=100) if run.skill == "nest"]


def innermost(fleet: Fleet, count: int) -> RunHandle:
    """The last of so many nested runs, once it is there."""

    def running() -> RunHandle | None:
        found = nested(fleet)
        return found[0] if len(found) == count else None

    found = wait_until(running, 20, f"{count} nested runs")
    assert found is not None
    return found
