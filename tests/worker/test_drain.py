"""Shutdown: short runs finish, long ones continue on another worker, uncounted."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet_producer import Fleet, RunHandle
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_kind

KIT = "tests.worker.kit"


def words(journal: Path, run: RunHandle) -> list[str]:
    lines = journal.read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines if line.startswith(run.id)]


def outcomes(run: RunHandle) -> list[str | None]:
    return [attempt.outcome for attempt in run.status().attempts]


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_drained_worker_finishes_short_runs_and_releases_long_ones(
    pool: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, soon, late = (tmp_path / name for name in ("journal", "soon", "late"))
    settings = {"drain_seconds": 2.5, "abandon_seconds": 1, "lease_seconds": 30}
    first = start_worker(KIT, pool=pool, concurrency=4, **settings)

    def enqueue(until: Path, *, heed: bool = False) -> RunHandle:
        arguments = {"journal": str(journal), "until": str(until), "heed": heed}
        return own_fleet.enqueue("kit.drains", arguments)

    long, other_long, short = enqueue(late), enqueue(late), enqueue(soon)
    heeding = enqueue(late, heed=True)
    for run in (long, other_long, short, heeding):
        wait_kind(run, "progress")
    waiting = enqueue(soon)
    first.send_signal(signal.SIGTERM)
    wait_until(lambda: "1 notified" in words(journal, short), what="the short one to be notified")
    soon.touch()
    second = start_worker(KIT, pool=pool, concurrency=4, **settings)
    assert first.wait_end() == 0
    late.touch()
    assert short.result(timeout=5) == "ended"
    assert heeding.result(timeout=5) == "heeded"
    assert waiting.result(timeout=20) == "ended"
    for run in (long, other_long):
        assert run.result(timeout=30) == "ended"
        assert outcomes(run) == ["released", "succeeded"]
        assert run.status().retries == 0
        assert words(journal, run) == ["1 start", "1 notified", "2 start", "2 end"]
        workers = {attempt.worker for attempt in run.status().attempts}
        assert len(workers) == 2
    assert words(journal, short) == ["1 start", "1 notified", "1 end"]
    assert Counter(outcomes(short) + outcomes(heeding)) == {"succeeded": 2}
    with second.server.client() as client:
        lost = [client.hget(f"{{skillfleet:0}}:run:{run.id}", "lost") for run in (long, short)]
    assert lost == [None, None]


@pytest.mark.parametrize("pool", POOL_FORMS)
@pytest.mark.parametrize("how", ["second SIGTERM", "SIGQUIT"])
def test_a_fast_shutdown_releases_running_runs_at_once(
    pool: str, how: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    settings = {"drain_seconds": 600, "abandon_seconds": 1, "lease_seconds": 600}
    worker = start_worker(KIT, pool=pool, concurrency=3, **settings)
    arguments = {"journal": str(journal), "until": str(tmp_path / "never")}
    runs = [own_fleet.enqueue("kit.drains", arguments) for _ in range(3)]
    for run in runs:
        wait_kind(run, "progress")
    if how == "SIGQUIT":
        worker.send_signal(signal.SIGQUIT)
    else:
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: len([1 for run in runs if "1 notified" in words(journal, run)]) == 3)
        worker.send_signal(signal.SIGTERM)
    assert worker.wait_end(30) == 0
    assert [outcomes(run) for run in runs] == [["released"]] * 3
    assert {run.status().state for run in runs} == {RunState.QUEUED}


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_an_idle_worker_ends_at_once_and_leaves_the_directory(
    pool: str, own_fleet: Fleet, start_worker: StartWorker
) -> None:
    worker = start_worker(KIT, pool=pool, lease_seconds=600)
    assert {card.name for card in own_fleet.agents()} == {"kit", "fleet"}
    worker.send_signal(signal.SIGTERM)
    assert worker.wait_end(30) == 0
    assert own_fleet.agents() == []
