"""Durable runs on real workers: a crash costs one step, and waiting costs nothing."""

import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skillfleet import joined_text
from skillfleet.contracts import RunEvent, RunState
from skillfleet.errors import RunCancelled, RunFailed, RunTimedOut
from skillfleet_producer import Fleet, RunHandle
from tests.support.fleet import POOL_FORMS, POOLS
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import Shared, StartWorker, wait_state
from tests.worker.test_drain import outcomes, words

SKILLS = "tests.worker.durable_skills"
QUICK = {"lease_seconds": 2, "reap_seconds": 0.2, "drain_seconds": 5, "park_seconds": 0.2}


def enqueue(fleet: Fleet, skill: str, **arguments: object) -> RunHandle:
    return fleet.enqueue(f"durable.{skill}", arguments)


def wait_open(run: RunHandle, count: int = 1) -> None:
    wait_until(lambda: len(run.waits()) == count, what=f"{count} open waits of {run}")


def wait_parked(run: RunHandle) -> None:
    wait_until(lambda: run.status().parked, what=f"{run} to be parked")


def in_background(run: RunHandle) -> Callable[[], list[RunEvent]]:
    """Follow a run in a thread; the function returned waits for all events."""
    events: list[RunEvent] = []

    def follow() -> None:
        events.extend(run.events(timeout=120))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()

    def all_of_them() -> list[RunEvent]:
        thread.join(120)
        return events

    return all_of_them


@pytest.mark.parametrize(
    ("pool", "step"), [*((pool, 3) for pool in POOLS), ("loop", 1), ("prefork", 1)]
)
def test_a_killed_worker_costs_one_step(
    pool: str, step: int, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    worker = start_worker(SKILLS, pool=pool, **QUICK)
    run = enqueue(own_fleet, "steps", journal=str(journal), until=str(until), waits=step)
    early = in_background(run)
    wait_until(lambda: any(f" step {step}" in word for word in _words(journal, run)))
    worker.kill()
    until.touch()
    start_worker(SKILLS, pool=pool, **QUICK)
    assert run.result(timeout=60) == [f"result {number}" for number in range(1, 5)]
    made = [word.split()[1:] for word in _words(journal, run) if " step " in word]
    executed = {str(number): 1 + (number == step) for number in range(1, 5)}
    assert Counter(number for _, number, _ in made) == executed
    keys = {(number, key) for _, number, key in made}
    assert len(keys) == 4, "a step has the same idempotency key in every attempt"
    assert outcomes(run) == ["lost", "succeeded"]
    text = "begin <11><22><33><44> end"
    late = list(run.events())
    assert joined_text(late) == joined_text(early()) == text
    begun = [event for event in late if event.payload.get("text") == "begin "]
    assert len(begun) == 1, "a later attempt does not repeat what is in the stream"
    assert [each.attempt for each in run.steps()] == [1] * (step - 1) + [2] * (5 - step)


def _words(journal: Path, run: RunHandle) -> list[str]:
    return words(journal, run) if journal.exists() else []


def test_branches_repeat_at_most_their_own_step(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    worker = start_worker(SKILLS, **QUICK)
    run = enqueue(own_fleet, "branches", journal=str(journal), until=str(until))
    wait_until(lambda: len([word for word in _words(journal, run) if word[-1] == "2"]) == 4)
    worker.kill()
    until.touch()
    start_worker(SKILLS, **QUICK)
    assert run.result(timeout=60) == [6, 36, 66, 96]
    made = Counter(word.partition("step ")[2] for word in _words(journal, run))
    assert made == {f"{b} {n}": 2 if n == 2 else 1 for b in range(4) for n in (1, 2, 3)}


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_question_is_answered_while_nothing_runs(
    pool: str, server: ValkeyServer, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    worker = start_worker(SKILLS, pool=pool, **QUICK | {"park_seconds": 600})
    run = enqueue(own_fleet, "asks", journal=str(journal))
    wait_open(run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    assert run.status().parked
    server.stop()
    server.start()
    with Fleet(server.producer_url) as other:
        other.run(run.id).answer({"approved": True, "by": "ada"})
    start_worker(SKILLS, pool=pool, **QUICK)
    assert run.result(timeout=60) == "True by ada"
    assert words(journal, run) == ["1 step"]
    kinds = [event.kind for event in run.events()]
    assert kinds.count("wait") == kinds.count("wait_ended") == 1
    assert outcomes(run) == ["parked", "succeeded"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_run_whose_question_is_shown_before_it_is_awaited_is_parked_at_drain(
    pool: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    until = tmp_path / "until"
    worker = start_worker(SKILLS, pool=pool, **QUICK | {"park_seconds": 600})
    run = enqueue(own_fleet, "asks_blocked", until=str(until))
    wait_open(run)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining: 1 runs" in worker.text(), what="the drain to reach the run")
    until.touch()
    assert worker.wait_end() == 0
    assert run.status().parked
    assert outcomes(run) == ["parked"]


def test_a_waiting_run_is_parked_and_resumes(shared: Shared) -> None:
    run = enqueue(shared.fleet, "asks")
    wait_parked(run)
    status = run.status()
    assert status.state is RunState.WAITING
    (wait,) = run.waits()
    assert wait.question == "Deploy?"
    run.answer({"approved": False})
    assert run.result(timeout=20) == "False by "
    *_, entry = run.steps()
    assert (entry.kind, entry.attempt, entry.started_at) == ("ask", 2, wait.opened_at)
    states = [event.payload["state"] for event in run.events() if event.kind == "state"]
    assert states[:2] == ["running", "waiting"]
    assert states[-1] == "succeeded"


def test_a_rejected_question_raises_in_the_resumed_run(shared: Shared) -> None:
    run = enqueue(shared.fleet, "asks")
    wait_parked(run)
    run.reject("not on Friday")
    assert "not on Friday" in str(run.result(timeout=20))


def test_an_expired_question_raises_whether_the_run_is_parked_or_in_memory(
    shared: Shared,
) -> None:
    runs = [enqueue(shared.fleet, "asks", timeout=timeout) for timeout in (0.05, 1.0)]
    assert [run.result(timeout=30) for run in runs] == ["timed out"] * 2
    assert outcomes(runs[1]) == ["parked", "succeeded"]


def test_questions_asked_at_once_are_answered_in_any_order(shared: Shared) -> None:
    run = enqueue(shared.fleet, "asks_twice")
    wait_open(run, 2)
    wait_parked(run)
    by_question = {wait.question: wait.id for wait in run.waits()}
    run.answer(False, wait=by_question["Second?"])
    run.answer(True, wait=by_question["First?"])
    assert run.result(timeout=30) == [True, False]
    kinds = Counter(event.kind for event in run.events())
    assert kinds["wait"] == kinds["wait_ended"] == 2


@pytest.mark.parametrize("park_seconds", [0.0, 0.02])
def test_an_answer_right_at_parking_is_not_lost(
    park_seconds: float, own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker(SKILLS, **QUICK | {"park_seconds": park_seconds})
    runs = [enqueue(own_fleet, "asks") for _ in range(60)]

    def answer(run: RunHandle) -> None:
        wait_open(run)
        run.answer({"approved": True, "by": run.id})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(answer, runs))
    assert [run.result(timeout=60) for run in runs] == [f"True by {run.id}" for run in runs]


def test_a_sleeping_run_wakes_up(shared: Shared, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run = enqueue(shared.fleet, "sleeps", seconds=1.5, journal=str(journal))
    wait_parked(run)
    assert run.result(timeout=30) == "awake"
    assert words(journal, run) == ["1 start", "2 start", "2 awake"]
    begun, ended = run.status().created_at, run.status().finished_at
    assert ended is not None
    assert (ended - begun).total_seconds() >= 1.5
    (entry,) = run.steps()
    assert entry.duration_seconds >= 1.4, "the pause counts from its first attempt"


def test_messages_are_received_once_and_in_order(shared: Shared) -> None:
    run = enqueue(shared.fleet, "receives", count=3)
    run.send({"n": 1})
    wait_parked(run)
    run.send("two")
    run.send([3])
    assert run.result(timeout=30) == [{"n": 1}, "two", [3]]


def test_a_receive_times_out(shared: Shared) -> None:
    run = enqueue(shared.fleet, "receives", count=2, timeout=0.6)
    wait_parked(run)
    assert run.result(timeout=30) == ["timed out", "timed out"]
    assert all(entry.duration_seconds >= 0.5 for entry in run.steps())


def test_a_caller_is_parked_until_its_called_run_ends(shared: Shared, tmp_path: Path) -> None:
    journal, until = tmp_path / "journal", tmp_path / "until"
    run = enqueue(shared.fleet, "calls", journal=str(journal), until=str(until))
    wait_parked(run)
    until.touch()
    assert run.result(timeout=30) == "called: lasted"
    assert run.status().children == 1


def test_a_parked_run_is_cancelled_and_overdue_at_once(shared: Shared) -> None:
    cancelled = enqueue(shared.fleet, "asks")
    overdue = shared.fleet.enqueue("durable.asks", {}, timeout=1.5)
    for run in (cancelled, overdue):
        wait_parked(run)
    cancelled.cancel("changed my mind")
    with pytest.raises(RunCancelled, match="changed my mind"):
        cancelled.result(timeout=20)
    with pytest.raises(RunTimedOut):
        overdue.result(timeout=20)


def test_a_run_that_waits_in_memory_is_cancelled_and_overdue(
    shared: Shared, tmp_path: Path
) -> None:
    arguments = {"journal": str(tmp_path / "journal")}
    cancelled = shared.fleet.enqueue("durable.asks_in_memory", arguments)
    overdue = shared.fleet.enqueue("durable.asks_in_memory", arguments, timeout=1.0)
    wait_state(cancelled, RunState.WAITING)
    cancelled.cancel()
    with pytest.raises(RunCancelled):
        cancelled.result(timeout=20)
    with pytest.raises(RunTimedOut):
        overdue.result(timeout=20)


def test_a_lost_run_that_waits_in_memory_asks_once(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    worker = start_worker(SKILLS, **QUICK)
    run = enqueue(own_fleet, "asks_in_memory", journal=str(journal))
    wait_open(run)
    worker.kill()
    start_worker(SKILLS, **QUICK)
    wait_until(lambda: "2 start" in words(journal, run))
    run.answer(True)
    assert run.result(timeout=30) is True
    assert [event.kind for event in run.events()].count("wait") == 1


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_drain_gives_back_durable_runs_between_two_steps(
    pool: str, own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    settings = QUICK | {"drain_seconds": 600, "lease_seconds": 600}
    worker = start_worker(SKILLS, pool=pool, **settings)
    run = enqueue(own_fleet, "many_steps", journal=str(journal), count=30)
    wait_until(lambda: len(_words(journal, run)) > 2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait_end(60) == 0
    assert outcomes(run) == ["released"]
    assert words(journal, run)[-1].startswith("end")
    start_worker(SKILLS, pool=pool, **settings)
    assert run.result(timeout=30) == 30
    assert words(journal, run) == [
        f"{word} {number}" for number in range(30) for word in ("begin", "end")
    ]


def test_a_drain_releases_a_run_that_waits_in_memory(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(SKILLS, **QUICK | {"drain_seconds": 600, "lease_seconds": 600})
    run = enqueue(own_fleet, "asks_in_memory", journal=str(tmp_path / "journal"))
    wait_open(run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait_end(60) == 0
    assert outcomes(run) == ["released"]
    assert run.status().state is RunState.QUEUED


def test_a_retry_runs_failed_steps_again_unless_the_failure_was_caught(
    shared: Shared, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    run = enqueue(shared.fleet, "retried", journal=str(journal))
    assert run.result(timeout=30) == "fails"
    assert words(journal, run) == ["1 caught", "1 fails", "2 fails"]


def test_a_timeout_counts_executing_time_only(shared: Shared) -> None:
    patient = enqueue(shared.fleet, "timed", working=0.2)
    slow = enqueue(shared.fleet, "timed", working=30)
    for run in (patient, slow):
        wait_parked(run)
    begun = patient.status().created_at
    wait_until(lambda: (_now(shared) - begun.timestamp()) > 2.5)
    for run in (patient, slow):
        run.answer(True)
    assert patient.result(timeout=20) == 0.2
    with pytest.raises(RunTimedOut):
        slow.result(timeout=20)


def _now(shared: Shared) -> float:
    with shared.server.client() as client:
        return float(client.time()[0])


def test_a_waiting_run_takes_no_slot(server: ValkeyServer, start_worker: StartWorker) -> None:
    start_worker(SKILLS, concurrency=1, **QUICK | {"park_seconds": 600})
    with Fleet(server.producer_url) as fleet:
        runs = [enqueue(fleet, "asks") for _ in range(3)]
        for run in runs:
            wait_open(run)
        assert not any(run.status().parked for run in runs)
        for run in runs:
            run.answer({"approved": True})
        assert [run.result(timeout=30) for run in runs] == ["True by "] * 3


def test_an_answer_that_does_not_fit_is_refused_where_it_is_given(shared: Shared) -> None:
    run = enqueue(shared.fleet, "asks")
    wait_open(run)
    with pytest.raises(Exception, match="approved"):
        run.answer({"approved": "perhaps"})
    run.answer({"approved": True})
    assert run.result(timeout=20) == "True by "


@pytest.mark.parametrize(
    "forged", [b"expired 0 0\n{}\nnull", b'answered 0 0\n{}\n"perhaps"', b"nonsense"]
)
def test_a_forged_decision_reopens_the_wait(loop: Shared, forged: bytes, tmp_path: Path) -> None:
    run = enqueue(loop.fleet, "asks_in_memory", journal=str(tmp_path / "journal"))
    wait_open(run)
    (wait,) = run.waits()
    key = f"{{skillfleet:0}}:decisions:{run.id}"
    with loop.server.client() as client:
        client.hset(key, wait.id, forged)
        wait_until(lambda: not client.hexists(key, wait.id), what="it to be reopened")
    run.answer(True)
    assert run.result(timeout=20) is True


def test_a_large_result_of_a_step_is_kept_apart(shared: Shared) -> None:
    run = enqueue(shared.fleet, "large_step", size=300_000)
    wait_parked(run)
    run.answer(True)
    assert run.result(timeout=30) == 300_000
    assert run.steps()[0].size_bytes == 300_002
    with shared.server.client() as client:
        length = sum(map(len, client.hvals(f"{{skillfleet:0}}:journal:{run.id}")))
    assert length < 1000


def test_a_full_journal_fails_its_run(own_fleet: Fleet, start_worker: StartWorker) -> None:
    start_worker(SKILLS, max_journal_bytes=4096)
    run = enqueue(own_fleet, "fills", size=1000)
    with pytest.raises(RunFailed, match="SKILLFLEET_MAX_JOURNAL_BYTES") as failed:
        run.result(timeout=30)
    assert failed.value.code == "journal_full"
    assert len(run.steps()) == 4


@pytest.mark.parametrize(("module", "fits"), [("versioned_2", False), ("versioned_3", True)])
def test_a_step_that_a_new_version_does_not_ask_for(
    module: str, fits: bool, own_fleet: Fleet, start_worker: StartWorker
) -> None:
    worker = start_worker("tests.worker.versioned_1", **QUICK)
    run = own_fleet.enqueue("versioned.work")
    wait_parked(run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    newer = start_worker(f"tests.worker.{module}", **QUICK)
    run.answer(True)
    if fits:
        assert run.result(timeout=30) == "True by 2.0"
    else:
        with pytest.raises(RunFailed, match=r"version 1\.0 .* compatible_versions") as failed:
            run.result(timeout=30)
        assert failed.value.code == "journal_mismatch"
    errors = [event.payload for event in run.events() if event.kind == "error"]
    assert [error["code"] for error in errors] == ["journal_mismatch"]
    assert "removed later" in errors[0]["message"]
    # Lines are written by a thread of their own.
    wait_until(lambda: "removed later" in newer.text(), what="the warning")


def test_a_parked_run_is_continued_by_its_own_version_while_that_lives(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    older = start_worker("tests.worker.versioned_1", **QUICK)
    *runs, last = [own_fleet.enqueue("versioned.work") for _ in range(9)]
    for run in (*runs, last):
        wait_parked(run)
    start_worker("tests.worker.versioned_2", **QUICK)
    wait_until(lambda: sum(card.name == "versioned" for card in own_fleet.agents()) == 2)
    for run in runs:
        run.answer(True)
    # Which worker gets a message is chance: the newer one gives back what it gets.
    assert [run.result(timeout=60) for run in runs] == ["True by 1.0"] * len(runs)
    assert [outcomes(run) for run in runs] == [["parked", "succeeded"]] * len(runs)
    older.send_signal(signal.SIGTERM)
    assert older.wait_end() == 0
    last.answer(True)
    with pytest.raises(RunFailed, match=r"version 1\.0") as failed:
        last.result(timeout=60)
    assert failed.value.code == "journal_mismatch"


def test_parked_and_cancelled_runs_leave_nothing_in_memory(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(SKILLS, **QUICK | {"park_seconds": 0})
    parked = [enqueue(own_fleet, "asks") for _ in range(20)]
    cancelled = enqueue(own_fleet, "asks_in_memory", journal=str(tmp_path / "journal"))
    for run in parked:
        wait_parked(run)
    wait_open(cancelled)
    cancelled.cancel()
    wait_state(cancelled, RunState.CANCELLED)
    wait_until(lambda: enqueue(own_fleet, "live_attempts").result(timeout=20) == 1)


def test_only_so_many_durable_runs_wait_in_memory(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker(SKILLS, **QUICK | {"park_seconds": 600, "max_waiting": 2})
    runs = [enqueue(own_fleet, "asks") for _ in range(5)]
    wait_until(lambda: sum(run.status().parked for run in runs) == 3)
    for run in runs:
        wait_open(run)
        run.answer({"approved": True})
    assert [run.result(timeout=30) for run in runs] == ["True by "] * 5
    assert sum(outcomes(run) == ["succeeded"] for run in runs) == 2


def test_the_text_of_a_trimmed_stream_is_whole(
    own_fleet: Fleet, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(SKILLS, **QUICK, max_events=100)
    run = enqueue(own_fleet, "steps", journal=str(tmp_path / "journal"), count=200, waits=0)
    run.result(timeout=60)
    events = list(run.events(timeout=60))
    assert len(events) < 500
    assert [event for event in events if event.kind == "trimmed"]
    text = "".join(f"<{number}{number}>" for number in range(1, 201))
    # What was emitted before the first step has no step that could keep it.
    assert joined_text(events) == f"{text} end"
