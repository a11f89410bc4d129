"""Runs that no live worker serves: held, and published when one registers."""

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.plain import plain_celery
from tests.worker.shared import StartWorker


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_it_is_held_until_a_worker_that_serves_it_registers(
    own_fleet: Fleet, start_worker: StartWorker, pool: str
) -> None:
    start_worker("tests.worker.kit", pool=pool)
    runs = [own_fleet.enqueue("here.add", {"x": n}) for n in range(5)]
    reasons = {"unserved:here.add"}
    wait_until(lambda: {run.status().held for run in runs} == reasons, 20, "them to be held")
    start_worker("tests.worker.two_queues", pool=pool)
    assert [run.result(timeout=30) for run in runs] == [n + 100 for n in range(5)]
    assert runs[0].status().held is None


def test_it_fails_when_none_registers_in_time(own_fleet: Fleet, start_worker: StartWorker) -> None:
    start_worker("tests.worker.kit", unserved_seconds=1)
    run = own_fleet.enqueue("here.add", {"x": 1})
    match = r"no worker served here\.add within 1 s; known skills:.*kit\.add"
    with pytest.raises(RunFailed, match=match) as caught:
        run.result(timeout=30)
    assert caught.value.code == "unknown_skill"


def test_a_skill_whose_workers_have_gone_is_waited_for(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    worker = start_worker("tests.worker.two_queues", lease_seconds=1)
    assert own_fleet.enqueue("here.add", {"x": 1}).result(timeout=30) == 101
    worker.kill()
    start_worker("tests.worker.kit")
    wait_until(lambda: not _live(own_fleet, "here"), 20, "its card to lapse")
    run = own_fleet.enqueue("here.add", {"x": 2})
    wait_until(lambda: run.status().held is not None, 20, "it to be held")
    start_worker("tests.worker.two_queues")
    assert run.result(timeout=30) == 102


def test_a_run_that_is_held_is_cancelled_at_once(
    own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.kit")
    run = own_fleet.enqueue("here.add", {"x": 1})
    wait_until(lambda: run.status().held is not None, 20, "it to be held")
    assert run.cancel("enough")
    wait_until(lambda: run.status().state is RunState.CANCELLED, 20, "its end")


def test_a_plain_clients_message_keeps_its_arguments(
    server: ValkeyServer, own_fleet: Fleet, start_worker: StartWorker
) -> None:
    start_worker("tests.worker.kit")
    send = "report(app.send_task('here.add', args=[4], kwargs={}).id)"
    (run_id,) = plain_celery(server.url, send)
    run = own_fleet.run(run_id)
    wait_until(lambda: _is_held(own_fleet, run_id), 20, "it to be held")
    start_worker("tests.worker.two_queues")
    assert run.result(timeout=30) == 104


def _live(fleet: Fleet, agent: str) -> bool:
    return any(card.name == agent for card in fleet.agents())


def _is_held(fleet: Fleet, run_id: str) -> bool:
    return any(run.id == run_id and run.held for run in fleet.runs(limit=10))
