"""However a handler ends, its attempt ends the run or gives it back: it never counts as lost."""

import asyncio
from pathlib import Path

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet, RunHandle
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.services.process_services import ProcessServices
from skillfleet_worker.services.watchdog import Watchdog
from tests.ledger.helpers import running
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import Shared, StartWorker, wait_kind, wait_state
from tests.worker.test_attempts import attempt, in_process

FAILING = ("gather", "failed call")
QUICK = {"cancel_grace_seconds": 0.2, "abandon_seconds": 0.6, "reap_seconds": 0.2}


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


@pytest.mark.parametrize("how", ["property", r"\ud800"])
def test_an_error_that_cannot_be_written_fails_the_run_in_its_attempt(
    shared: Shared, tmp_path: Path, how: str
) -> None:
    journal = tmp_path / "journal"
    run = shared.fleet.enqueue("ends.raises_oddly", {"how": how, "journal": str(journal)})
    with pytest.raises(RunFailed) as failed:
        run.result(timeout=20)
    status = run.status()
    assert (status.state, status.attempt, len(lines(journal))) == (RunState.FAILED, 1, 1)
    assert "odd" in str(failed.value) or "no opinion" in str(failed.value)
    assert isinstance(failed.value.code, str)
    assert failed.value.code == status.code


@pytest.mark.parametrize("how", ["model", "surrogate", "big", "object", "circle"])
def test_a_result_that_cannot_be_written_fails_the_run_in_its_attempt(
    shared: Shared, tmp_path: Path, how: str
) -> None:
    journal = tmp_path / "journal"
    run = shared.fleet.enqueue("ends.returns_oddly", {"how": how, "journal": str(journal)})
    with pytest.raises(RunFailed) as failed:
        run.result(timeout=20)
    assert (run.status().attempt, len(lines(journal))) == (1, 1)
    assert failed.value.code in ("invalid_result", "internal_error")


def test_an_error_after_the_deadline_is_a_time_out(shared: Shared) -> None:
    run = shared.fleet.enqueue("ends.fails_late")
    assert wait_state(run, RunState.TIMED_OUT).code == "deadline_exceeded"


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_a_module_may_replace_asyncio_s_classes(
    start_worker: StartWorker, own_fleet: Fleet, pool: str
) -> None:
    start_worker("tests.worker.replaced_task", pool=pool, lease_seconds=4)
    runs = [own_fleet.enqueue("replaced.work", {"value": n}) for n in range(4)]
    assert [run.result(timeout=20) for run in runs] == [0, 1, 2, 3]
    failed = own_fleet.enqueue("replaced.fails")
    assert wait_state(failed, RunState.FAILED).attempt == 1


# --- calls that are pending at the handler's end -------------------------------------------


@pytest.mark.parametrize("how", ["gather", "failed call", "forget", "at once"])
def test_a_handler_that_ends_stops_what_it_still_calls(
    shared: Shared, tmp_path: Path, how: str
) -> None:
    journal = tmp_path / "journal"
    run = shared.fleet.enqueue("ends.leaves", {"how": how, "journal": str(journal)})
    wait_state(run, RunState.FAILED if how in FAILING else RunState.SUCCEEDED)
    child = child_of(shared, run, "sleep")
    assert wait_state(child, RunState.CANCELLED).code == "parent_ended"
    assert len([line for line in lines(journal) if "start" in line]) <= 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_caller_that_ends_frees_its_slot(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    """With one slot the caller itself executes what it called."""
    start_worker("tests.worker.kit,tests.worker.ends", pool=pool, concurrency=1, **QUICK)
    for how in ("gather", "forget"):
        journal = tmp_path / how
        arguments = {"how": how, "journal": str(journal)}
        run = own_fleet.enqueue("ends.leaves", arguments)
        wait_state(run, RunState.FAILED if how in FAILING else RunState.SUCCEEDED)
        assert own_fleet.enqueue("kit.add", {"x": 1}).result(timeout=20) == 2
        (child,) = [each for each in own_fleet.runs(limit=9) if each.parent_id == run.id]
        ended = wait_state(own_fleet.run(child.id), RunState.CANCELLED)
        assert ended.attempt == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_caller_learns_of_a_failed_call_while_it_executes_another(
    start_worker: StartWorker, own_fleet: Fleet, tmp_path: Path, pool: str
) -> None:
    start_worker("tests.worker.kit,tests.worker.ends", pool=pool, concurrency=2, **QUICK)
    journal, free = tmp_path / "journal", tmp_path / "free"
    blocker = {"journal": str(tmp_path / "blocker"), "until": str(free)}
    wait_kind(own_fleet.enqueue("kit.drains", blocker), "progress")
    run = own_fleet.enqueue("ends.leaves", {"how": "failed call", "journal": str(journal)})
    wait_until(lambda: lines(journal), 20, "the caller to execute what it called")
    free.touch()
    assert "bad thing" in (wait_state(run, RunState.FAILED).message or "")


def child_of(shared: Shared, parent: RunHandle, skill: str) -> RunHandle:
    def found() -> RunHandle | None:
        for status in shared.fleet.runs(agent="kit", limit=200):
            if status.parent_id == parent.id and status.skill == skill:
                return shared.fleet.run(status.id)
        return None

    child = wait_until(found, 20, "the child")
    assert child is not None
    return child


# --- clocks and orders -----------------------------------------------------------------------


def test_the_watchdog_counts_a_lease_from_before_its_request(valkey: ValkeyServer) -> None:
    """Redis counts it from the request on; the reply may come much later."""

    async def body(process: WorkerProcess) -> None:
        async with Proxy(target=valkey.port, delay=0.4) as proxy:
            lease = await running(process.ledger)
            process.begin(held := attempt(lease.token, lease.run_id))
            settings = process.settings.model_copy(update={"redis_url": proxy.url})
            watchdog = Watchdog(process, lambda: None)
            watchdog._settings = settings
            await asyncio.to_thread(lambda: asyncio.run(watchdog._renew_leases()))
            answered = process.loop_time()
        assert 0 < held.renewed_at <= answered - 0.8

    in_process(valkey, body)


def test_the_watchdog_gives_up_a_lease_that_is_not_renewed(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        process.begin(lost := attempt())
        process.begin(held := attempt(run_id="r2"))
        held.renew(process.loop_time())
        Watchdog(process, lambda: None)._give_up_overdue()
        assert lost.stop is not None
        assert held.stop is None

    in_process(valkey, body)


def test_an_order_to_cancel_counts_only_with_its_record(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        process.begin(held := attempt(lease.token, lease.run_id))
        services = ProcessServices(process, [])
        for forged in (b"cancel", b"", b"cancel  x", b"\xff", f"cancel {lease.run_id}".encode()):
            services._on_command(forged)
        await asyncio.gather(*services._tasks)
        assert held.stop is None
        await process.ledger.cancellation.cancel(lease.run_id, "enough")
        services._on_command(f"cancel {lease.run_id} something else".encode())
        await asyncio.wait_for(held.wait_stopped(), 20)
        assert held.cancel_reason == "enough"

    in_process(valkey, body)
