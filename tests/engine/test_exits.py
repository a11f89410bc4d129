"""Task code that tries to end the process: by an exit in a child task, or after a fork."""

from collections.abc import Callable

import pytest

from tests.engine.workers import Worker
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until

POOLS = pytest.mark.parametrize("pool", POOL_FORMS)
SharedWorkers = Callable[[str], Worker]


@POOLS
@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("gather", "SystemExit"),
        ("group", "SystemExit"),
        ("wait_for", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("thread", "SystemExit"),
        ("callback", "none"),
        ("not awaited", "none"),
    ],
)
def test_an_exit_in_a_child_task_reaches_what_awaits_it_and_nothing_else(
    shared_workers: SharedWorkers, pool: str, how: str, seen: str
) -> None:
    worker = shared_workers(pool)
    bystander = worker.send("hold", 1.0)
    worker.wait_for("beat", bystander.id)
    assert worker.call("exit_in_child", how) == seen
    assert bystander.get(timeout=30) == "held"
    assert worker.call("add", 2, 3) == 5
    assert worker.process.poll() is None


@POOLS
@pytest.mark.parametrize("where", ["task", "thread", "child task"])
@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("raise", 1), ("return", 0)])
def test_a_forked_child_that_leaves_the_tasks_code_ends(
    shared_workers: SharedWorkers, pool: str, where: str, how: str, status: int
) -> None:
    worker = shared_workers(pool)
    bystander = worker.send("hold", 1.0)
    worker.wait_for("beat", bystander.id)
    child, ended = worker.call("use_a_forked_child", where, how)
    # After an exit in a child task, only the loop can end it.
    assert ended == (1 if where == "child task" else status)
    assert bystander.get(timeout=30) == "held"
    assert worker.call("add", 2, 3) == 5
    held = [entry["pid"] for entry in worker.entries("over", bystander.id)]
    assert len(held) == 1
    assert child not in held


@POOLS
def test_a_task_may_start_processes(shared_workers: SharedWorkers, pool: str) -> None:
    assert shared_workers(pool).call("start_a_process") == 7


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_an_exit_that_is_not_awaited_is_logged(shared_workers: SharedWorkers, pool: str) -> None:
    worker = shared_workers(pool)
    assert worker.call("exit_in_child", "callback") == "none"
    wait_until(lambda: "raised SystemExit(2) to end the process" in worker.log.read_text())
