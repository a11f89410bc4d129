"""Celery's signals of tasks, in the pool that runs skills without Celery's tracer."""

import pytest

from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.worker.shared import StartWorker


def test_a_project_that_listens_to_celery_receives_signals_of_its_skills(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.listening")
    run = own_fleet.enqueue("listening.work", {"number": 7})
    assert run.result(timeout=30) == 7
    with pytest.raises(RunFailed, match="bad thing"):
        own_fleet.enqueue("listening.boom").result(timeout=30)
    received = own_fleet.enqueue("listening.received").result(timeout=30)
    assert received[:3] == [
        ["prerun", "listening.work", run.id],
        ["success", "listening.work", "7"],
        ["postrun", "listening.work", "SUCCESS"],
    ]
    assert [one[:2] for one in received[3:6]] == [
        ["prerun", "listening.boom"],
        ["failure", "listening.boom"],
        ["postrun", "listening.boom"],
    ]
    assert "bad thing" in received[4][2]
