"""Sandboxes of real workers: code is executed, and nothing of it survives the attempt."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillfleet.errors import RunCancelled, RunFailed
from skillfleet_producer import Fleet, RunHandle
from tests.adapters.sandbox.conftest import KINDS, open_folder, require
from tests.adapters.sandbox.processes import own_number, processes_of
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker

QUICK: dict[str, Any] = {
    "lease_seconds": 2,
    "reap_seconds": 0.2,
    "drain_seconds": 5,
    "park_seconds": 0.1,
    "cancel_grace_seconds": 0.2,
}


@pytest.fixture
def number() -> Iterator[int]:
    """Return an argument of `sleep` that no other test has."""
    with own_number() as number:
        yield number


def started(start_worker: StartWorker, folder: Path, kind: str, **options: Any) -> FleetWorker:
    require("bubblewrap" if kind == "auto" else kind)
    settings = QUICK | {"sandbox": kind, "sandbox_directory": folder / "sandboxes"}
    settings |= {"sandbox_warm": 0} | options
    return start_worker("tests.worker.boxes", **settings)


def occupied(fleet: Fleet, skill: str, number: int, **arguments: object) -> RunHandle:
    """Enqueue a run that leaves processes, and return when they all run."""
    run = fleet.enqueue(f"boxes.{skill}", {"number": number, **arguments})
    wait_until(lambda: len(processes_of("sleep", number)) == 6, what=f"the processes of {run}")
    return run


def left(folder: Path, number: int) -> list[object]:
    """Return what is left of all sandboxes: processes, records, folders."""
    root = folder / "sandboxes"
    files = [*(root / "records").iterdir(), *(root / "folders").iterdir()]
    return [*processes_of("sleep", number), *files]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that the sandboxes' user can pass."""
    with open_folder() as path:
        yield path


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_skill_executes_code_and_each_ending_leaves_nothing(
    start_worker: StartWorker, own_fleet: Fleet, place: Path, number: int, pool: str
) -> None:
    worker = started(start_worker, place, "auto", pool=pool)
    code = "import os; print(sorted(os.listdir('/')), os.getcwd())"
    result = own_fleet.enqueue("boxes.calculate", {"code": code}).result(timeout=60)
    assert result["code"] == 0, result
    assert "etc" in result["out"]
    assert "home" not in result["out"]
    assert "sandboxes: bubblewrap" in worker.text()

    until = place / "until"
    run = occupied(own_fleet, "occupy", number, until=str(until))
    until.touch()
    assert run.result(timeout=60) == "ended"
    assert left(place, number) == [], "before the run's end, not some time after it"
    until.unlink()
    run = occupied(own_fleet, "occupy", number, until=str(until), how="error")
    until.touch()
    with pytest.raises(RunFailed):
        run.result(timeout=60)
    assert left(place, number) == []
    run = occupied(own_fleet, "occupy", number, how="never")
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=60)
    wait_until(lambda: not left(place, number), what="the end of all processes")
    until.unlink()
    run = occupied(own_fleet, "park", number, until=str(until))
    until.touch()
    wait_until(lambda: run.status().parked, what=f"{run} to be parked")
    wait_until(lambda: not left(place, number), what="the end of all processes")
    run.cancel()


def texts(folder: Path) -> str:
    """Return the contents of all files of a folder, which may go at any time."""
    found = ""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.read_text()
    return found


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_worker_that_stops_ends_its_warm_sandbox(
    start_worker: StartWorker, own_fleet: Fleet, place: Path, pool: str
) -> None:
    worker = started(start_worker, place, "auto", pool=pool, sandbox_warm=1)
    run = own_fleet.enqueue("boxes.calculate", {"code": "print(1)"})
    assert run.result(timeout=60)["code"] == 0
    records = place / "sandboxes" / "records"
    wait_until(lambda: '"run_id":""' in texts(records), what="the warm sandbox")
    worker.send_signal(signal.SIGTERM)
    worker.wait_end()
    assert list(records.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_after_sigkill_of_a_worker_the_next_leaves_nothing(
    start_worker: StartWorker, own_fleet: Fleet, place: Path, number: int, kind: str
) -> None:
    worker = started(start_worker, place, kind)
    run = occupied(own_fleet, "occupy", number, how="never")
    (record,) = (place / "sandboxes" / "records").iterdir()
    labels = json.loads(record.read_text())
    assert labels["run_id"] == run.id
    assert int(labels["lease"]) == 1
    worker.kill()
    wait_until(lambda: not processes_of("sleep", number), what="the end of all processes")
    assert left(place, number) == [record, *(place / "sandboxes" / "folders").iterdir()]
    run.cancel()
    started(start_worker, place, kind)
    wait_until(lambda: not left(place, number), what="the next worker to delete the files")


def test_a_worker_without_sandboxes_executes_nothing(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker("tests.worker.boxes", **QUICK)
    with pytest.raises(RunFailed, match="SKILLFLEET_SANDBOX") as failed:
        own_fleet.enqueue("boxes.calculate", {"code": "print()"}).result(timeout=60)
    assert failed.value.code == "sandbox_unavailable"
