"""A handler's leftovers affect no other run, and do not keep its worker from ending."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_kind

QUICK = {"drain_seconds": 0.5, "abandon_seconds": 0.5, "cancel_grace_seconds": 0.1}
EXITS = ("gather", "group", "wait_for", "interrupt", "thread", "callback")
LEFT = ("to_thread", "thread", "executor", "processes", "multiprocessing", "subprocess", "leftover")


@pytest.fixture
def until(tmp_path: Path) -> Iterator[Path]:
    """Ends what hangs, whatever became of its worker."""
    path = tmp_path / "until"
    yield path
    path.touch()


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_exits_and_forks_of_a_handler_end_its_run_only(
    pool: str, start_worker: StartWorker, own_fleet: Fleet, until: Path
) -> None:
    worker = start_worker("tests.worker.leaving", pool=pool, concurrency=3)
    bystander = own_fleet.enqueue("leaving.rests", {"until": str(until)})
    wait_kind(bystander, "progress")
    children = worker.children() if pool == "prefork" else [worker.pid]
    for how in EXITS:
        run = own_fleet.enqueue("leaving.exits", {"how": how})
        if how == "callback":
            assert run.result(timeout=30) == how
        else:
            with pytest.raises(RunFailed, match=r"SystemExit\(2\)|KeyboardInterrupt") as caught:
                run.result(timeout=30)
            assert caught.value.code == "skill_error"
        assert run.status().attempt == 1
    for how, status in (("exit", 3), ("return", 0)):
        run = own_fleet.enqueue("leaving.forks", {"how": how})
        ended, parent = run.result(timeout=30)
        assert ended == status
        assert parent in children
    assert bystander.status().state is RunState.RUNNING
    until.touch()
    assert bystander.result(timeout=30) == "rested"
    assert bystander.status().attempt == 1
    assert worker.process is not None
    assert worker.process.poll() is None
    if pool == "prefork":
        assert worker.children() == children
    assert "lost" not in {attempt.outcome for attempt in bystander.status().attempts}


def leave(worker: FleetWorker, fleet: Fleet, until: Path, *hows: str) -> None:
    """Have runs hang in all these ways, drain the worker, and see it end in time."""
    runs = []
    for how in hows:
        run = fleet.enqueue("leaving.hangs", {"how": how, "until": str(until)})
        wait_kind(run, "progress")
        runs.append(run)
    worker.send_signal(signal.SIGTERM)
    # Far beyond drain + 10 s, and far before what hangs would end.
    assert worker.wait_end(90) == 0
    for run in runs:
        status = run.status()
        assert status.state is RunState.QUEUED
        assert [attempt.outcome for attempt in status.attempts] == ["released"]


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_drained_worker_ends_whatever_its_runs_leave_behind(
    pool: str, start_worker: StartWorker, own_fleet: Fleet, until: Path
) -> None:
    worker = start_worker("tests.worker.leaving", pool=pool, concurrency=len(LEFT), **QUICK)
    leave(worker, own_fleet, until, *LEFT)
    if pool != "prefork":
        assert "The process ends although threads of it still run" in worker.text()
        assert "in _hang" in worker.text()


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_drained_worker_ends_though_a_handler_blocks_its_thread(
    pool: str, start_worker: StartWorker, own_fleet: Fleet, until: Path
) -> None:
    worker = start_worker("tests.worker.leaving", pool=pool, concurrency=1, **QUICK)
    leave(worker, own_fleet, until, "blocked")
    assert worker.text().count(" ready.") == 1


def test_a_worker_that_ends_itself_ends_though_threads_hang(
    start_worker: StartWorker, own_fleet: Fleet, until: Path
) -> None:
    """As requested by Celery's remote control, which gives runs no time to end."""
    worker = start_worker("tests.worker.leaving", **QUICK)
    run = own_fleet.enqueue("leaving.hangs", {"how": "to_thread", "until": str(until)})
    wait_kind(run, "progress")
    run.cancel()
    wait_until(lambda: run.status().state is RunState.CANCELLED)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait_end(60) == 0
