"""Killed, paused and cut-off workers: their runs go on, and stale ones write nothing."""

import os
import signal
from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_kind, wait_state
from tests.worker.test_drain import outcomes, words

KIT = "tests.worker.kit"
QUICK = {"lease_seconds": 3, "reap_seconds": 0.2, "drain_seconds": 0.5}


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_the_runs_of_a_killed_worker_execute_again_on_another_worker(
    pool: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    first = start_worker(KIT, pool=pool, concurrency=3, **QUICK)
    arguments = {"journal": str(journal), "until": str(until)}
    runs = [own_fleet.enqueue("kit.drains", arguments) for _ in range(3)]
    for run in runs:
        wait_kind(run, "progress")
    first.signal_all(signal.SIGKILL)
    first.wait_end()
    until.touch()
    start_worker(KIT, pool=pool, concurrency=3, **QUICK)
    for run in runs:
        assert run.result(timeout=30) == "ended"
        assert outcomes(run) == ["lost", "succeeded"]
        assert words(journal, run) == ["1 start", "2 start", "2 end"]
        assert run.status().retries == 0


def test_the_run_of_a_killed_child_executes_again_in_the_same_worker(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    worker = start_worker(KIT, pool="prefork", concurrency=2, **QUICK)
    run = own_fleet.enqueue("kit.drains", {"journal": str(journal), "until": str(until)})
    wait_kind(run, "progress")
    child = str(run.status().worker).partition(":")[2].partition("-")[0]
    os.kill(int(child), signal.SIGKILL)
    until.touch()
    assert run.result(timeout=30) == "ended"
    assert outcomes(run) == ["lost", "succeeded"]
    assert worker.process is not None
    assert worker.process.poll() is None


def test_the_children_of_a_killed_main_process_end_and_their_runs_continue(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    settings = QUICK | {"stranded_seconds": 1}
    first = start_worker(KIT, pool="prefork", concurrency=2, **settings)
    run = own_fleet.enqueue("kit.drains", {"journal": str(journal), "until": str(until)})
    wait_kind(run, "progress")
    children = first.children()
    first.send_signal(signal.SIGKILL)
    first.wait_end()
    start_worker(KIT, pool="prefork", concurrency=2, **settings)
    wait_until(lambda: "2 start" in words(journal, run), 30, "the second attempt")
    until.touch()
    assert run.result(timeout=30) == "ended"
    # The orphaned child was notified of the shutdown, if it lived for long enough.
    assert [word for word in words(journal, run) if "notified" not in word] == [
        *("1 start", "2 start", "2 end")
    ]
    # Linux kills them at once; what they could still release counts as no loss.
    assert outcomes(run) in (["lost", "succeeded"], ["released", "succeeded"])
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_a_poison_run_ends_dead_and_takes_no_other_run_along(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    start_worker(KIT, pool="prefork", concurrency=2, **QUICK)
    poison = own_fleet.enqueue("kit.poison", {"journal": str(journal)})
    with pytest.raises(RunFailed) as caught:
        poison.result(timeout=40)
    assert caught.value.code == "worker_lost"
    status = poison.status()
    assert status.state is RunState.DEAD
    assert [attempt.outcome for attempt in status.attempts] == ["lost", "dead"]
    assert words(journal, poison) == ["1 start", "2 start"]
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_stale_attempt_writes_nothing(
    pool: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, go = tmp_path / "journal", tmp_path / "go"
    paused = start_worker(KIT, pool=pool, concurrency=2, **QUICK)
    run = own_fleet.enqueue("kit.writes_on", {"journal": str(journal), "go": str(go)})
    wait_kind(run, "progress")
    paused.signal_all(signal.SIGSTOP)
    try:
        start_worker(KIT, pool=pool, concurrency=2, **QUICK)
        assert run.result(timeout=30) == "second"
        before = [event.id for event in run.events()]
        go.touch()
    finally:
        paused.signal_all(signal.SIGCONT)
    wait_until(lambda: "1 wrote" in words(journal, run) or "lost" in paused.text())
    fresh = own_fleet.enqueue("kit.add", {"x": 1})
    assert fresh.result(timeout=20) == 2
    assert run.result() == "second"
    assert [event.id for event in run.events()] == before
    assert all(event.payload.get("text") != "stale" for event in run.events())
    assert run.artifacts() == []
    assert outcomes(run) == ["lost", "succeeded"]


def test_a_paused_worker_gets_its_own_run_back_and_goes_on_watching_it(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Both attempts live in one process for a moment; the newer one must keep its lease."""
    journal = tmp_path / "journal"
    worker = start_worker(KIT, **QUICK)
    run = own_fleet.enqueue("kit.sleep", {"journal": str(journal), "seconds": 6})
    wait_kind(run, "progress")
    worker.signal_all(signal.SIGSTOP)
    with worker.server.client() as client:
        wait_until(lambda: not client.zrangebyscore("{skillfleet:0}:workers", _now(client), "+inf"))
    worker.signal_all(signal.SIGCONT)
    assert run.result(timeout=30) == 6
    assert outcomes(run)[-1] == "succeeded"
    assert outcomes(run).count("lost") <= 1
    assert wait_state(run, RunState.SUCCEEDED).attempt <= 2


def _now(client: object) -> int:
    seconds, micros = client.time()  # type: ignore[attr-defined]
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_runs_survive_the_loss_of_all_connections(
    pool: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    worker = start_worker(KIT, pool=pool, concurrency=3)
    runs = [
        own_fleet.enqueue("kit.sleep", {"journal": str(journal), "seconds": 1.5}) for _ in range(3)
    ]
    for run in runs:
        wait_kind(run, "progress")
    with worker.server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
    for run in runs:
        assert run.result(timeout=30) == 1.5
        assert words(journal, run) == ["1 start", "1 end"]
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=30) == 2


def test_a_run_whose_events_cannot_be_written_fails_and_the_worker_goes_on(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    worker = start_worker(KIT, events_patience_seconds=0.5, redis_timeout_seconds=0.5)
    run = own_fleet.enqueue("kit.reports_shutdown", {"journal": str(journal)})
    wait_kind(run, "progress")
    worker.server.signal(signal.SIGSTOP)
    try:
        wait_until(journal.exists)
    finally:
        worker.server.signal(signal.SIGCONT)
    with pytest.raises(RunFailed) as caught:
        run.result(timeout=30)
    assert caught.value.code == "events_unwritable"
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=30) == 2
