"""Events leave the worker although their handler never gives way."""

import signal

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_all_events_of_a_handler_that_then_blocks_are_read_and_outlive_its_worker(
    pool: str, start_worker: StartWorker, own_fleet: Fleet
) -> None:
    worker = start_worker("tests.worker.blocking", pool=pool, concurrency=1, lease_seconds=60)
    run = own_fleet.enqueue("blocking.emit_and_block", {"count": 30, "seconds": 600})
    events = run.events(timeout=20)
    seen = [next(events) for _ in range(31)]
    assert [event.payload["current"] for event in seen[1:]] == list(range(30))
    worker.signal_all(signal.SIGKILL)
    again = run.events(after=seen[10].id)
    assert [next(again).id for _ in range(20)] == [event.id for event in seen[11:]]
    wait_until(lambda: run.status().events == 31, what="the record to count them")
