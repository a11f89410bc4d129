"""The loop pool: many coroutines at once in one process."""

import asyncio
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker as start_worker_in_thread
from celery.exceptions import TaskRevokedError

from skillfleet_engine.loop import bridge
from tests.engine.conftest import StartWorker
from tests.engine.project import make_app
from tests.engine.workers import LOOP, Worker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def test_five_hundred_tasks_run_at_once_in_one_process(loop_worker: Worker) -> None:
    results = [loop_worker.send("meet", 500) for _ in range(500)]
    assert [result.get(timeout=60) for result in results] == [500] * 500


def test_each_of_many_interleaved_tasks_sees_only_itself(loop_worker: Worker) -> None:
    results = [loop_worker.send("look_around", 20) for _ in range(200)]
    problems = [problem for result in results for problem in result.get(timeout=60)]
    assert problems == []


def test_tasks_do_not_see_each_others_context(loop_worker: Worker) -> None:
    results = [loop_worker.send("set_context", "leak") for _ in range(20)]
    assert [result.get(timeout=30) for result in results] == [result.id for result in results]


def test_signals_name_the_right_task_while_many_interleave(loop_worker: Worker) -> None:
    results = [loop_worker.send("look_around", 5) for _ in range(100)]
    for result in results:
        result.get(timeout=60)
    ids = {result.id for result in results}
    wait_until(lambda: ids <= {entry["id"] for entry in loop_worker.entries("postrun")})
    for entry in loop_worker.entries("prerun"):
        assert entry["id"] == entry["current"] == entry["request"]
    for entry in loop_worker.entries("postrun"):
        assert entry["id"] == entry["request"]


def test_a_coroutine_that_cancels_itself_fails_and_spares_the_worker(loop_worker: Worker) -> None:
    result = loop_worker.send("cancel_itself")
    with pytest.raises(Exception, match="cancelled from within") as caught:
        result.get(timeout=30)
    assert type(caught.value).__name__ == "HandlerCancelledError"
    assert "WorkerLostError" not in loop_worker.log.read_text()
    assert loop_worker.call("add", 1, 1) == 2


def test_a_terminated_coroutine_may_clean_up(loop_worker: Worker) -> None:
    result = loop_worker.send("hold")
    loop_worker.wait_for("beat", result.id)
    result.revoke(terminate=True)
    loop_worker.wait_for("cancelled", result.id)
    wait_until(lambda: result.state == "REVOKED")


def test_the_hard_limit_cancels_the_coroutine(loop_worker: Worker) -> None:
    result = loop_worker.send("hold", time_limit=0.5)
    loop_worker.wait_for("cancelled", result.id)
    wait_until(lambda: result.state == "FAILURE")


def test_a_blocked_loop_is_reported_with_the_task_and_its_stack(loop_worker: Worker) -> None:
    result = loop_worker.send("block", 1.5)
    entry = loop_worker.wait_for("blocked", result.id)
    assert entry["seconds"] >= 0.5
    assert "time.sleep(seconds)" in entry["stack"]
    result.get(timeout=30)
    # Only one report a minute is logged; on a busy machine it may be an earlier one.
    assert "The event loop has been blocked for" in loop_worker.log.read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Celery's own, in this process
def test_a_worker_can_run_in_a_thread_of_another_program(server: ValkeyServer) -> None:
    app = make_app(server.url, **LOOP)
    seen: list[object] = []

    @app.task
    async def look() -> str:
        seen.append(asyncio.get_running_loop() is bridge.home_loop())
        return "looked"

    options: dict[str, Any] = {"pool": LOOP["worker_pool"], "perform_ping_check": False}
    for _ in range(2):
        with start_worker_in_thread(app, **options):
            assert look.delay().get(timeout=30, disable_sync_subtasks=False) == "looked"
    assert seen == [True, True]
    app.close()


def test_a_worker_fetches_no_more_tasks_than_it_has_free_slots(start_worker: StartWorker) -> None:
    worker = start_worker(concurrency=2)
    results = [worker.send("hold", 600.0) for _ in range(6)]
    worker.wait_for("held", count=2)
    assert wait_until(lambda: worker.redis.llen("celery") == 4)
    assert worker.inspect("reserved") == []
    # The pool grows and shrinks at run time.
    worker.control("pool_grow", 2)
    worker.wait_for("held", count=4)
    worker.control("pool_shrink", 3)
    stats = worker.inspect("stats")
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["pool"]["running"] == 4
    assert len(stats["pool"]["loop-lag"]) == 2
    assert len(results) == 6


def test_a_task_that_waits_for_a_slot_can_be_revoked(start_worker: StartWorker) -> None:
    worker = start_worker(concurrency=1, worker_disable_prefetch=False)
    running = worker.send("hold", 600.0)
    worker.wait_for("held", running.id)
    waiting = worker.send("note", "never")
    wait_until(lambda: waiting.id in str(worker.inspect("reserved")), what="it to be fetched")
    worker.control("revoke", waiting.id)
    running.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=30)
    assert not worker.entries("note", waiting.id)
