"""The threads of tasks: one for each slot, replaced when it hangs."""

from pathlib import Path

from tests.engine.conftest import StartWorker
from tests.support.waiting import wait_until


def test_as_many_tasks_may_be_in_threads_as_there_are_slots(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(concurrency=50)
    go = tmp_path / "go"
    held = [worker.send("sleep_in_threads", 0, str(go)) for _ in range(50)]
    worker.wait_for("in thread", count=50)
    worker.control("pool_grow", 10)
    held += [worker.send("sleep_in_threads", 0, str(go)) for _ in range(10)]
    worker.wait_for("in thread", count=60)
    go.touch()
    assert len({result.get(timeout=30) for result in held}) == 60


def test_threads_that_hang_are_reported_and_starve_no_later_task(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(concurrency=10)
    go = tmp_path / "go"
    stuck = [worker.send("sleep_in_threads", 0, str(go)) for _ in range(10)]
    worker.wait_for("in thread", count=10)
    for result in stuck:
        worker.app.control.revoke(result.id, terminate=True)
    wait_until(lambda: worker.inspect("stats")["pool"]["running"] == 0, what="free slots")
    assert [worker.call("sleep_in_threads", 0.01) for _ in range(3)]
    assert worker.inspect("stats")["pool"]["threads-left"] == 10
    for result in stuck:
        line = f"A thread of task {result.id} still runs"
        wait_until(lambda line=line: line in worker.log.read_text(), 30, line)  # type: ignore[misc]
    assert "in block" in worker.log.read_text()
    go.touch()
    wait_until(lambda: worker.inspect("stats")["pool"]["threads-left"] == 0, what="them to end")


def test_threads_that_hang_starve_no_later_task_of_a_child(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    """In prefork, one task at a time uses a child's threads."""
    worker = start_worker("prefork", 1)
    go = tmp_path / "go"
    for _ in range(12):
        stuck = worker.send("sleep_in_threads", 0, str(go), soft_time_limit=0.3)
        wait_until(lambda stuck=stuck: stuck.state == "FAILURE", 30, "its end")  # type: ignore[misc]
    assert worker.call("sleep_in_threads", 0.01)
    go.touch()
