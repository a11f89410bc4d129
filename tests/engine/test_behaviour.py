"""Celery's promises for tasks, on the loop pool and on Celery's pools, which prove the suite."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import (
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
)

from tests.engine.workers import Worker
from tests.support.waiting import wait_until


@pytest.fixture(params=["loop", "threads", "prefork"])
def worker(request: pytest.FixtureRequest, shared_workers: Callable[[str], Worker]) -> Worker:
    return shared_workers(request.param)


@pytest.fixture(params=["loop", "prefork"])
def limiting_worker(
    request: pytest.FixtureRequest, shared_workers: Callable[[str], Worker]
) -> Worker:
    """Celery's thread pool neither limits nor terminates tasks."""
    return shared_workers(request.param)


def signature(worker: Worker, task: str, *args: Any, **options: Any) -> Any:
    return worker.app.signature(f"tests.engine.project.{task}", args=args, **options)


def test_tasks_may_be_async_functions_or_plain_ones(worker: Worker) -> None:
    assert worker.call("add", 2, 3) == 5
    assert worker.call("add_without_waiting", 2, 3) == 5


def test_plain_functions_may_wait_for_coroutines(worker: Worker) -> None:
    assert worker.call("wait_in_plain_function") == "waited"


def test_a_process_has_one_home_loop_for_its_life(worker: Worker) -> None:
    visits = [worker.call("visit_home") for _ in range(8)]
    assert all(is_home for _, is_home, _, _ in visits)
    assert all(is_own == (worker.pool == "loop") for _, _, is_own, _ in visits)
    loops = {(pid, loop) for pid, _, _, loop in visits}
    assert len(loops) == len({pid for pid, _, _, _ in visits})


def test_an_error_reaches_the_caller_with_its_traceback(worker: Worker) -> None:
    result = worker.send("fail", "on purpose")
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=30)
    assert "in fail" in result.traceback
    assert worker.wait_for("failure", result.id)["error"] == "ValueError"


def test_a_task_retries_itself(worker: Worker) -> None:
    result = worker.send("succeed_at", 3)
    assert result.get(timeout=30) == 3
    worker.wait_for("retry", result.id, count=2)


def test_a_task_is_retried_for_the_errors_it_names(worker: Worker) -> None:
    assert worker.call("succeed_at_by_itself", 3) == 3


def test_a_task_waits_for_its_countdown(worker: Worker) -> None:
    sent = datetime.now(UTC).timestamp()
    result = worker.send("note", "later", countdown=0.5)
    assert worker.wait_for("note", result.id)["at"] >= sent + 0.5


def test_an_expired_task_does_not_run(worker: Worker) -> None:
    result = worker.send("note", "late", expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert worker.wait_for("revoked", result.id)["expired"]
    assert not worker.entries("note", result.id)


def test_a_chain_hands_results_on(worker: Worker) -> None:
    steps = chain(signature(worker, "add", 1, 2), signature(worker, "add", 10))
    assert steps.apply_async().get(timeout=30) == 13


def test_a_group_runs_all_its_tasks(worker: Worker) -> None:
    tasks = group(signature(worker, "add", 1, number) for number in range(10))
    assert tasks.apply_async().get(timeout=30) == list(range(1, 11))


def test_a_chord_collects_the_results_of_its_header(worker: Worker) -> None:
    header = [signature(worker, "add", 1, number) for number in range(10)]
    result = chord(header, app=worker.app)(signature(worker, "total"))
    assert result.get(timeout=30) == sum(range(1, 11))


def test_errbacks_are_called_with_the_error(worker: Worker) -> None:
    result = worker.send("fail", "bad", link_error=signature(worker, "note_error"))
    assert worker.wait_for("errback", result.id)["error"] == "bad"


def test_callbacks_are_called_with_the_result(worker: Worker) -> None:
    result = worker.send("note", "hello", link=signature(worker, "note"))
    result.get(timeout=30)
    wait_until(lambda: len([e for e in worker.entries("note") if e["text"] == "hello"]) >= 2)


def test_a_task_revoked_before_it_starts_never_runs(worker: Worker) -> None:
    result = worker.app.AsyncResult(f"revoked-early-{worker.pool}")
    worker.control("revoke", result.id)
    worker.send("note", "revoked", task_id=result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert not worker.entries("note", result.id)


def test_a_running_task_can_be_terminated(limiting_worker: Worker) -> None:
    worker = limiting_worker
    result = worker.send("hold")
    worker.wait_for("beat", result.id)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert worker.wait_for("revoked", result.id)["terminated"]
    assert result.state == "REVOKED"
    assert not worker.entries("failure", result.id)
    assert worker.call("add", 1, 1) == 2


def test_the_soft_limit_is_raised_inside_the_coroutine(limiting_worker: Worker) -> None:
    assert limiting_worker.call("clean_up_at_soft_limit") == "cleaned up"


def test_a_task_that_does_not_handle_its_soft_limit_fails(limiting_worker: Worker) -> None:
    result = limiting_worker.send("hold", soft_time_limit=1)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=30)
    assert limiting_worker.entries("soft limit", result.id)


def test_the_hard_limit_ends_a_task(limiting_worker: Worker) -> None:
    result = limiting_worker.send("hold", time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=30)
    assert limiting_worker.wait_for("failure", result.id)["error"] == "TimeLimitExceeded"
    assert limiting_worker.call("add", 1, 1) == 2


def test_a_rejected_message_can_be_requeued(worker: Worker) -> None:
    assert worker.call("requeue_once") == "second delivery"


def test_a_message_rejected_for_good_fails_its_task(worker: Worker) -> None:
    if worker.pool == "threads":
        pytest.skip("Celery's thread pool loses what the task raised")
    with pytest.raises(Reject):
        worker.send("reject").get(timeout=30)


def test_an_ignored_task_leaves_no_result(worker: Worker) -> None:
    result = worker.send("ignore")
    assert worker.wait_for("postrun", result.id)["state"] == "IGNORED"
    assert result.state == "PENDING"


def test_signals_come_in_order_and_name_their_task(worker: Worker) -> None:
    result = worker.send("add", 1, 1)
    result.get(timeout=30)
    after = worker.wait_for("postrun", result.id)
    (before,) = worker.entries("prerun", result.id)
    (success,) = worker.entries("success", result.id)
    assert before["at"] <= success["at"] <= after["at"]
    assert before["current"] == before["request"] == after["request"] == result.id
    assert after["state"] == "SUCCESS"


def test_a_late_acknowledged_message_is_gone_after_its_task(worker: Worker) -> None:
    result = worker.send("hold_late", 0.2)
    worker.wait_for("held", result.id)
    assert worker.redis.hlen("unacked") >= 1
    result.get(timeout=30)
    wait_until(lambda: worker.redis.hlen("unacked") == 0, what="the acknowledgement")


def test_remote_control_answers(worker: Worker) -> None:
    result = worker.send("hold", 1.0)
    worker.wait_for("held", result.id)
    assert result.id in [task["id"] for task in worker.inspect("active")]
    assert worker.inspect("stats")["pool"]["max-concurrency"] >= 4
    assert "tests.engine.project.add" in worker.inspect("registered")
    result.get(timeout=30)


def test_rate_limits_hold_tasks_back(worker: Worker) -> None:
    name = "tests.engine.project.note"
    worker.control("rate_limit", name, "4/s")
    try:
        results = [worker.send("note", "limited") for _ in range(5)]
        times = sorted(worker.wait_for("note", result.id)["at"] for result in results)
        # A second; less on a busy machine, where the first task may begin late.
        assert times[4] - times[0] >= 0.4
    finally:
        worker.control("rate_limit", name, None)


def test_monitors_see_the_events_of_a_task(worker: Worker) -> None:
    kinds: list[str] = []
    listening, done = threading.Event(), threading.Event()
    wanted = "monitored-" + worker.pool

    def on_event(event: dict[str, Any]) -> None:
        listening.set()
        if event.get("uuid") == wanted:
            kinds.append(event["type"])
            if event["type"] == "task-succeeded":
                done.set()

    with worker.app.connection_for_read() as connection:
        receiver = worker.app.events.Receiver(connection, handlers={"*": on_event})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        try:
            wait_until(listening.is_set, what="the worker's heartbeat event")
            worker.call("add", 1, 1, task_id=wanted)
            wait_until(done.is_set, what="task-succeeded")
        finally:
            receiver.should_stop = True
            thread.join()
    assert kinds == ["task-received", "task-started", "task-succeeded"]
