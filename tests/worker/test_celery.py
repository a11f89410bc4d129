"""On Celery's terms: a plain client, the control commands, and Flower, without skillfleet."""

import json
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from skillfleet.contracts import RunState
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS, ROOT
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.worker.plain import plain_celery
from tests.worker.shared import Shared, StartWorker, wait_kind, wait_state


def celery_command(url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-b", url, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- a plain client -----------------------------------------------------------------------


def test_a_plain_client_sends_tasks_that_become_runs(shared: Shared) -> None:
    code = """
by_name = app.send_task("kit.add", kwargs={"x": 1, "y": 2})
by_position = app.send_task("kit.add", args=[3, 4])
mixed = app.send_task("kit.add", args=[5], kwargs={"y": 6})
nothing = app.send_task("kit.same")
report([outcome(each) for each in (by_name, by_position, mixed, nothing)])
report(by_name.id)
fails = app.send_task("kit.boom")
late = app.send_task("kit.overdue")
twice = app.send_task("kit.add", args=[1], kwargs={"x": 1})
many = app.send_task("kit.add", args=[1, 2, 3])
report([outcome(each) for each in (fails, late, twice, many)])
"""
    values, run_id, errors = plain_celery(shared.server.url, code)
    assert values == [["value", value, "SUCCESS"] for value in (3, 7, 11, None)]
    assert shared.fleet.run(run_id).status().state is RunState.SUCCEEDED
    assert shared.fleet.run(run_id).result() == 3
    assert [state for *_, state in errors] == ["FAILURE"] * 4
    words = ["bad thing", "deadline", "by position and by name", "takes 2 arguments"]
    for (_, text, _), word in zip(errors, words, strict=True):
        assert word in text


def test_a_plain_client_sees_the_result_of_a_fleets_run_and_a_pending_one(loop: Shared) -> None:
    run = loop.fleet.enqueue("kit.add", {"x": 1})
    waiting = loop.fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_state(waiting)
    code = f"""
report(outcome(app.AsyncResult({run.id!r})))
report(app.AsyncResult({waiting.id!r}).state)
"""
    assert plain_celery(loop.server.url, code) == [["value", 2, "SUCCESS"], "PENDING"]
    waiting.cancel()


def test_a_plain_client_waits_for_a_run_that_is_parked_meanwhile(
    shared: Shared, tmp_path: Path
) -> None:
    arguments = {"seconds": 1.5, "journal": str(tmp_path / "journal")}
    code = f"""
sleeps = app.send_task("durable.sleeps", kwargs={arguments!r})
report(outcome(sleeps))
report(sleeps.id)
"""
    value, run_id = plain_celery(shared.server.url, code)
    assert value == ["value", "awake", "SUCCESS"]
    outcomes = [attempt.outcome for attempt in shared.fleet.run(run_id).status().attempts]
    assert outcomes == ["parked", "succeeded"]


def test_revoke_cancels_a_running_run_and_its_client_sees_it_revoked(shared: Shared) -> None:
    code = """
import time
result = app.send_task("kit.sleep", kwargs={"seconds": 600})
while True:
    active = app.control.inspect().active() or {}
    if any(task["id"] == result.id for tasks in active.values() for task in tasks):
        break
result.revoke()
report(outcome(result))
report(result.id)
"""
    [kind, _, state], run_id = plain_celery(shared.server.url, code)
    assert (kind, state) == ("TaskRevokedError", "REVOKED")
    status = shared.fleet.run(run_id).status()
    assert (status.state, status.message) == (RunState.CANCELLED, "revoked through Celery")


def test_revoking_by_a_stamp_cancels_the_runs_that_have_it_and_no_others(shared: Shared) -> None:
    code = """
import uuid
stamp, other = str(uuid.uuid4()), str(uuid.uuid4())
def send(value, seconds):
    stamps = {"stamped_headers": ["tenant"], "tenant": value}
    return app.send_task("kit.sleep", kwargs={"seconds": seconds}, **stamps)
marked, unmarked = send(stamp, 600), send(other, 1)
while True:
    active = app.control.inspect().active() or {}
    if {marked.id, unmarked.id} <= {task["id"] for tasks in active.values() for task in tasks}:
        break
app.control.revoke_by_stamped_headers({"tenant": [stamp]}, terminate=True, reply=True, timeout=1)
report([outcome(marked)[0], marked.state, outcome(unmarked)])
report(marked.id)
later = send(stamp, 600)
report([outcome(later)[0], later.state])
"""
    first, run_id, later = plain_celery(shared.server.url, code)
    assert first == ["TaskRevokedError", "REVOKED", ["value", 1, "SUCCESS"]]
    status = shared.fleet.run(run_id).status()
    assert (status.state, status.message) == (RunState.CANCELLED, "revoked through Celery")
    assert later == ["TaskRevokedError", "REVOKED"]


def test_revoke_ends_a_fleets_queued_run(loop: Shared) -> None:
    run = loop.fleet.enqueue("kit.add", {"x": 1}, queue="unconsumed")
    plain_celery(loop.server.url, f"app.control.revoke({run.id!r})")
    assert wait_state(run, RunState.CANCELLED).attempt == 0


def test_revoke_does_not_call_a_run_revoked_that_goes_on(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    """A worker that does not have the run writes nothing of it to Celery's result backend."""
    first = start_worker("tests.worker.kit", cancel_grace_seconds=10)
    start_worker("tests.worker.kit", cancel_grace_seconds=10)
    run = own_fleet.enqueue("kit.shielded", {"seconds": 2.0})
    wait_kind(run, "progress")
    code = f"""
states = set()
app.control.revoke({run.id!r})
while "SUCCESS" not in states and "FAILURE" not in states:
    states.add(app.AsyncResult({run.id!r}).state)
report(sorted(states))
"""
    (states,) = plain_celery(first.server.url, code)
    assert set(states) <= {"PENDING", "SUCCESS"}


def test_a_plain_clients_task_that_is_revoked_before_a_worker_has_it_never_starts(
    loop: Shared,
) -> None:
    code = """
import uuid
run_id = str(uuid.uuid4())
app.control.revoke(run_id, reply=True, timeout=1)
result = app.send_task("kit.add", kwargs={"x": 1}, task_id=run_id)
report(outcome(result))
report(run_id)
"""
    [kind, _, state], run_id = plain_celery(loop.server.url, code)
    assert (kind, state) == ("TaskRevokedError", "REVOKED")
    wait_until(lambda: loop.fleet.runs(state="cancelled"))
    assert wait_state(loop.fleet.run(run_id), RunState.CANCELLED).attempt == 0


def test_a_plain_clients_task_that_expired_never_starts(loop: Shared) -> None:
    code = """
result = app.send_task("kit.add", kwargs={"x": 1}, expires=-1)
report(outcome(result))
report(result.id)
"""
    [kind, _, state], run_id = plain_celery(loop.server.url, code)
    assert (kind, state) == ("TaskRevokedError", "REVOKED")
    status = wait_state(loop.fleet.run(run_id), RunState.CANCELLED)
    assert (status.attempt, status.message) == (0, "its message expired")


def test_a_plain_clients_countdown_is_kept(loop: Shared) -> None:
    code = """
report(outcome(app.send_task("kit.add", kwargs={"x": 1}, countdown=0.3)))
"""
    assert plain_celery(loop.server.url, code) == [["value", 2, "SUCCESS"]]


def test_a_plain_clients_task_retries_by_the_skills_policy(loop: Shared) -> None:
    code = 'report(outcome(app.send_task("kit.flaky")))'
    assert plain_celery(loop.server.url, code) == [["value", 3, "SUCCESS"]]


def test_chains_groups_and_chords_of_skills_work_for_a_plain_client(shared: Shared) -> None:
    code = """
add = lambda **given: signature("kit.add", kwargs=given, app=app)
after = lambda **given: signature("kit.add", kwargs=given, app=app)
report(outcome(chain(add(x=1, y=2), after(y=10), after(y=100), app=app).apply_async()))
several = group([add(x=n, y=0) for n in range(4)], app=app).apply_async()
report(several.get(timeout=30))
total = chord([add(x=n, y=0) for n in range(4)], signature("kit.total", app=app), app=app)
report(outcome(total.apply_async()))
"""
    assert plain_celery(shared.server.url, code) == [
        ["value", 113, "SUCCESS"],
        [0, 1, 2, 3],
        ["value", 6, "SUCCESS"],
    ]


def test_a_failing_link_ends_a_chain_and_its_error_callback_is_called(loop: Shared) -> None:
    code = """
first = signature("kit.boom", app=app)
whole = chain(first, signature("kit.add", args=[1], app=app), app=app).apply_async()
report(outcome(whole.parent))
"""
    [[_, text, state]] = plain_celery(loop.server.url, code)
    assert state == "FAILURE"
    assert "bad thing" in text


# --- remote control -----------------------------------------------------------------------


def test_inspect_sees_the_workers_skills_and_runs(shared: Shared) -> None:
    run = shared.fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    code = """
inspect = app.control.inspect(limit=1)
report(inspect.registered())
report(inspect.active())
report(inspect.stats())
"""
    name = shared.worker.name
    registered, active, stats = plain_celery(shared.server.url, code)
    skills = {each.split()[0] for each in registered[name]}
    assert {"kit.add", "conformance.echo", "fleet.echo"} <= skills
    assert [(task["name"], task["id"]) for task in active[name]] == [("kit.sleep", run.id)]
    assert stats[name]["total"]["kit.sleep"] >= 1
    run.cancel()


def test_celerys_command_revokes_and_terminates_runs_and_kills_no_process(
    shared: Shared,
) -> None:
    before = shared.worker.children()
    for command in (["revoke"], ["terminate", "SIGKILL"]):
        run = shared.fleet.enqueue("kit.sleep", {"seconds": 600})
        wait_kind(run, "progress")
        celery_command(shared.server.url, "control", *command, run.id)
        status = wait_state(run, RunState.CANCELLED)
        assert (status.message, status.attempt) == ("revoked through Celery", 1)
    assert shared.worker.children() == before


@contextmanager
def events_of_tasks(url: str) -> Iterator[Callable[[str], list[str]]]:
    """A function that returns the kinds of a task's events, in order."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    listening = threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        listening.set()
        kinds[event.get("uuid", "")].append(event["type"])

    app = Celery(broker=url)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": on_event})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        try:
            wait_until(listening.is_set, what="the worker's heartbeat event")
            yield lambda run_id: kinds[run_id]
        finally:
            receiver.should_stop = True
            thread.join()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_revoked_run_does_not_become_one_that_waits(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    """The attempt that parked it may be reported after the revoke."""
    worker = start_worker("tests.worker.late_reports", pool=pool, park_seconds=0.2)
    url, reported = worker.server.url, tmp_path / "reported"
    with events_of_tasks(url) as kinds:
        run = own_fleet.enqueue("late.asks", {"reported": str(reported)})
        wait_until(lambda: run.status().parked, what="it to be parked")
        celery_command(url, "control", "revoke", run.id)
        wait_until(lambda: "task-revoked" in kinds(run.id), what="it to be revoked")
        reported.touch()
        wait_until(lambda: "task-retried" in kinds(run.id), what="the report of its attempt")
        wait_until(lambda: kinds(run.id)[-1] == "task-revoked", what="the last event")


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_monitors_see_the_end_of_a_run_that_no_worker_executes(
    start_worker: StartWorker, own_fleet: Fleet, pool: str
) -> None:
    worker = start_worker("tests.worker.kit", pool=pool, reap_seconds=0.2)
    with events_of_tasks(worker.server.url) as kinds:
        run = own_fleet.enqueue("kit.add", {"x": 1}, queue="unconsumed", timeout=0.1)
        wait_until(lambda: kinds(run.id) == ["task-failed"], what="the event of its end")
    assert run.status().state is RunState.TIMED_OUT


# --- Flower -------------------------------------------------------------------------------


class Flower:
    """A real Flower; its API as a client sees it."""

    def __init__(self, url: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-b", url, "flower"),
                *("--address=127.0.0.1", f"--port={self.port}"),
            ],
            cwd=ROOT,
            env={**_environment(), "FLOWER_UNAUTHENTICATED_API": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, path: str, **form: str) -> Any:
        data = urllib.parse.urlencode(form).encode() if form else None
        address = f"http://127.0.0.1:{self.port}/api/{path}"
        with urllib.request.urlopen(address, data, timeout=10) as reply:
            return json.load(reply)

    def answers(self) -> bool:
        try:
            return bool(self.ask("workers"))
        except OSError:
            return False

    def task(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("tasks?limit=1000").get(run_id, {})
        return found

    def wait_task(self, run_id: str, state: str) -> dict[str, Any]:
        wait_until(
            lambda: self.task(run_id).get("state") == state,
            40,
            f"Flower to show {run_id} as {state}, not {self.task(run_id)}",
        )
        return self.task(run_id)


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


@pytest.fixture(scope="module", params=["loop", "prefork"])
def flower(request: pytest.FixtureRequest, shared_fleets: Any) -> Iterator[tuple[Flower, Shared]]:
    yield from _flower_of(shared_fleets(request.param))


@pytest.fixture(scope="module", params=["loop", "threads"])
def one_process(
    request: pytest.FixtureRequest, shared_fleets: Any
) -> Iterator[tuple[Flower, Shared]]:
    yield from _flower_of(shared_fleets(request.param))


def _flower_of(shared: Shared) -> Iterator[tuple[Flower, Shared]]:
    flower = Flower(shared.server.url)
    try:
        wait_until(flower.answers, 120, "Flower")
        yield flower, shared
    finally:
        flower.process.kill()
        flower.process.wait()


def test_flower_shows_the_worker(flower: tuple[Flower, Shared]) -> None:
    page, shared = flower
    workers = wait_until(lambda: page.ask("workers?refresh=1"))
    assert list(workers) == [shared.worker.name]
    assert "kit.add" in " ".join(workers[shared.worker.name]["registered"])


def test_flower_shows_runs_by_skill_name_with_their_states(flower: tuple[Flower, Shared]) -> None:
    page, shared = flower
    fleet = shared.fleet
    succeeded = fleet.enqueue("kit.add", {"x": 1})
    failed = fleet.enqueue("kit.boom")
    retried = fleet.enqueue("kit.flaky")
    late = fleet.enqueue("kit.overdue")
    cancelled = fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(cancelled, "progress")
    cancelled.cancel()
    assert page.wait_task(succeeded.id, "SUCCESS")["name"] == "kit.add"
    assert "bad thing" in page.wait_task(failed.id, "FAILURE")["exception"]
    assert page.wait_task(retried.id, "SUCCESS")["result"] == "3"
    assert "deadline" in page.wait_task(late.id, "FAILURE")["exception"]
    revoked = page.wait_task(cancelled.id, "REVOKED")
    assert revoked["name"] == "kit.sleep"
    assert list(page.ask("workers")) == [shared.worker.name]


def test_flower_shows_a_run_that_waits_is_parked_and_resumes(
    flower: tuple[Flower, Shared],
) -> None:
    page, shared = flower
    run = shared.fleet.enqueue("durable.asks")
    waiting = page.wait_task(run.id, "RETRY")
    assert waiting["exception"] == "waits for an answer"
    wait_until(lambda: run.status().parked, what="it to be parked")
    assert page.task(run.id)["state"] == "RETRY"
    run.answer({"approved": True})
    shown = page.wait_task(run.id, "SUCCESS")
    assert (shown["name"], shown["result"]) == ("durable.asks", "'True by '")


def test_flower_shows_a_run_that_waits_in_memory(
    one_process: tuple[Flower, Shared], tmp_path: Path
) -> None:
    page, shared = one_process
    run = shared.fleet.enqueue("durable.asks_in_memory", {"journal": str(tmp_path / "journal")})
    assert page.wait_task(run.id, "RETRY")["exception"] == "waits for an answer"
    run.answer(True)
    page.wait_task(run.id, "SUCCESS")


def test_flowers_button_cancels_a_parked_run(flower: tuple[Flower, Shared]) -> None:
    page, shared = flower
    run = shared.fleet.enqueue("durable.asks")
    wait_until(lambda: run.status().parked, what="it to be parked")
    page.ask(f"task/revoke/{run.id}", terminate="true")
    assert wait_state(run, RunState.CANCELLED).message == "revoked through Celery"
    page.wait_task(run.id, "REVOKED")


def test_flower_shows_the_end_of_a_parked_run_whose_deadline_passes(
    flower: tuple[Flower, Shared],
) -> None:
    page, shared = flower
    run = shared.fleet.enqueue("durable.asks", timeout=3)
    shown = page.wait_task(run.id, "FAILURE")
    assert shown["name"] == "durable.asks"
    assert "deadline" in shown["exception"]


def test_flowers_button_cancels_a_run(flower: tuple[Flower, Shared]) -> None:
    page, shared = flower
    run = shared.fleet.enqueue("kit.sleep", {"seconds": 600})
    wait_kind(run, "progress")
    page.ask(f"task/revoke/{run.id}", terminate="true")
    assert wait_state(run, RunState.CANCELLED).message == "revoked through Celery"
    page.wait_task(run.id, "REVOKED")
