"""A handler that blocks its loop is named, outlived by other runs' leases, and ends its process."""

from pathlib import Path

import pytest
import redis

from skillfleet.contracts import RunState
from skillfleet.errors import RunCancelled, RunTimedOut
from skillfleet_producer import Fleet, RunHandle
from tests.support.fleet import POOL_FORMS
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker, wait_kind, wait_state

MODULES = "tests.worker.kit,tests.worker.blocking"
FOREVER = {"seconds": 600}
QUICK = {
    "lease_seconds": 3,
    "cancel_grace_seconds": 0.2,
    "abandon_seconds": 0.5,
    "blocked_seconds": 1,
    "reap_seconds": 0.2,
}


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_cancelled_handler_that_blocks_ends_with_its_process_and_the_worker_goes_on(
    pool: str, start_worker: StartWorker, own_fleet: Fleet
) -> None:
    worker = start_worker(MODULES, pool=pool, concurrency=2, **QUICK)
    run = own_fleet.enqueue("blocking.block", FOREVER)
    wait_state(run)
    run.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        run.result(timeout=30)
    assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=30) == 2
    assert "cannot be stopped: this process is recycled" in worker.text()
    assert "time.sleep(0.1)" in worker.text()


def test_the_other_runs_of_a_blocked_process_keep_their_leases_and_go_on_uncounted(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path
) -> None:
    start_worker(MODULES, pool="loop", **QUICK)
    until = tmp_path / "until"
    arguments = {"journal": str(tmp_path / "journal"), "until": str(until)}
    other = own_fleet.enqueue("kit.drains", arguments)
    wait_kind(other, "progress")
    blocking = own_fleet.enqueue("blocking.block", FOREVER)
    wait_state(blocking)
    # A second worker would take the runs over if their leases ran out.
    start_worker(MODULES, pool="loop", **QUICK)
    before = executed_ms(own_fleet, other)
    assert_renewed(own_fleet, other, times=3)
    assert executed_ms(own_fleet, other) > before
    assert other.status().attempt == 1
    assert other.status().state is RunState.RUNNING
    blocking.cancel("enough")
    with pytest.raises(RunCancelled):
        blocking.result(timeout=30)
    until.touch()
    assert other.result(timeout=60) == "ended"
    assert [attempt.outcome for attempt in other.status().attempts] == ["released", "succeeded"]


def executed_ms(fleet: Fleet, run: RunHandle) -> int:
    """Return the executing time that the run's record has of its attempt."""
    with redis.Redis.from_url(fleet.settings.ledger_url) as client:
        _, executed = (client.hget(f"{{skillfleet:0}}:run:{run.id}", "executed") or b"1 0").split()
        return int(executed)


def assert_renewed(fleet: Fleet, run: RunHandle, times: int) -> None:
    """Wait until the run's lease was renewed `times` times."""
    ends: set[float] = set()
    with redis.Redis.from_url(fleet.settings.ledger_url) as client:

        def renewed() -> bool:
            end = client.zscore("{skillfleet:0}:leases", run.id)
            ends.add(float(end or 0))
            return len(ends) > times

        wait_until(renewed, 30, f"{times} renewals by the watchdog")


def test_a_blocked_loop_is_reported_once_and_the_report_names_the_run(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    worker = start_worker(MODULES, pool="loop", **QUICK)
    run = own_fleet.enqueue("blocking.block", {"seconds": 4})
    run.result(timeout=30)
    (report,) = [line for line in worker.text().splitlines() if "blocked for" in line]
    assert f"by task {run.id}" in report
    assert "stood still" not in worker.text()
    assert "time.sleep(0.1)" in worker.text()


def test_a_handler_that_blocks_beyond_its_deadline_times_out(
    start_worker: StartWorker, own_fleet: Fleet
) -> None:
    start_worker(MODULES, pool="loop", **QUICK)
    run = own_fleet.enqueue("blocking.block", FOREVER, timeout=1)
    with pytest.raises(RunTimedOut):
        run.result(timeout=30)
    assert run.status().state is RunState.TIMED_OUT
