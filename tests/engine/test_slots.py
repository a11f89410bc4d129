"""Parents that wait for their children hold no slots."""

from typing import Any

import pytest

from skillfleet_engine.celery_hooks.slots import release_slot
from tests.engine.conftest import StartWorker
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    "settings",
    [
        {"worker_prefetch_multiplier": 0},
        {"task_acks_late": True},
        {"task_acks_late": True, "worker_disable_prefetch": False},
    ],
    ids=["by slots", "by slots and unacknowledged", "by unacknowledged"],
)
def test_more_parents_than_slots_get_their_children_done(
    start_worker: StartWorker, settings: dict[str, Any]
) -> None:
    worker = start_worker(concurrency=10, **settings)
    parents = [worker.send("call_children", 2) for _ in range(200)]
    assert [parent.get(timeout=60) for parent in parents] == [2] * 200
    wait_until(lambda: worker.inspect("stats")["pool"]["running"] == 0)
    assert worker.inspect("stats")["pool"]["released-slots"] == 0


async def test_releasing_a_slot_does_nothing_outside_of_a_worker() -> None:
    async with release_slot():
        pass
