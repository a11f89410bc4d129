"""Two fleets side by side on one Redis: neither sees anything of the other."""

import re
from collections.abc import Iterator
from functools import partial

import pytest
from celery import Celery

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed, UnknownRunError, UnknownSkillError
from skillfleet_producer import Fleet, Settings
from skillfleet_worker import create_app
from skillfleet_worker.settings import WorkerSettings
from tests.support.acl import PRODUCER, WORKER
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until
from tests.worker.shared import wait_state


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ValkeyServer]:
    """A server with a worker of `north` (agents of trust) and one of `south` (the kit)."""
    with (
        running_server() as server,
        FleetWorker(server, "tests.auth.agents", namespace="north"),
        FleetWorker(server, "tests.worker.kit,tests.auth.agents", namespace="south"),
    ):
        yield server


@pytest.fixture
def north(shared_server: ValkeyServer) -> Iterator[Fleet]:
    settings = Settings.load(
        redis_url=shared_server.url_of(PRODUCER, "north"), namespace="north", unserved_seconds=0
    )
    with Fleet(settings=settings) as fleet:
        yield fleet


@pytest.fixture
def south(shared_server: ValkeyServer) -> Iterator[Fleet]:
    settings = Settings.load(redis_url=shared_server.url_of(PRODUCER, "south"), namespace="south")
    with Fleet(settings=settings) as fleet:
        yield fleet


def test_each_fleet_finds_its_own_agents_only(north: Fleet, south: Fleet) -> None:
    assert "kit" not in {card.name for card in north.agents()}
    assert "kit" in {card.name for card in south.agents()}
    with pytest.raises(UnknownSkillError, match=r"kit\.add"):
        north.enqueue("kit.add", {"x": 1})


def test_a_run_is_known_in_its_own_fleet_only(north: Fleet, south: Fleet) -> None:
    run = north.enqueue("tree.leaf", {"number": 7})
    assert run.result(timeout=20) == 7
    with pytest.raises(UnknownRunError):
        south.run(run.id).status()
    assert run.id not in {status.id for status in south.runs(limit=1000)}


def test_the_same_idempotency_key_means_a_run_of_its_own_in_each_fleet(
    north: Fleet, south: Fleet
) -> None:
    runs = [fleet.enqueue("tree.leaf", idempotency_key="k") for fleet in (north, south)]
    assert runs[0].id != runs[1].id


def test_each_workers_queue_carries_its_own_fleets_runs(north: Fleet, south: Fleet) -> None:
    """Both workers serve tree.leaf from a queue of the same name."""
    for fleet in (north, south):
        runs = fleet.enqueue_many("tree.leaf", [{"number": n} for n in range(20)])
        for run in runs:
            run.result(timeout=20)
        workers = {run.status().worker for run in runs}
        assert len(workers) == 1
    assert north.runs(limit=1)[0].worker != south.runs(limit=1)[0].worker


def test_a_call_of_an_agent_that_only_the_other_fleet_has_is_refused(north: Fleet) -> None:
    run = north.enqueue("caller.asks", {"target": "kit", "skill": "add"})
    with pytest.raises(RunFailed, match="known skills") as refused:
        run.result(timeout=20)
    assert refused.value.code == "unknown_skill"


def test_remote_control_reaches_the_workers_of_its_own_fleet_only(
    shared_server: ValkeyServer,
) -> None:
    found = {}
    for namespace in ("north", "south"):
        settings = WorkerSettings.load(
            redis_url=shared_server.url_of(WORKER, namespace), namespace=namespace
        )
        app: Celery = create_app("tests.auth.agents", settings=settings)
        replies = wait_until(partial(app.control.ping, timeout=1.0)) or []
        found[namespace] = {name for reply in replies for name in reply}
        app.close()
    assert len(found["north"]) == len(found["south"]) == 1
    assert not found["north"] & found["south"]


def test_a_cancel_ends_the_run_of_its_own_fleet_only(north: Fleet, south: Fleet) -> None:
    mine, theirs = (fleet.enqueue("tree.leaf", {"seconds": 60}) for fleet in (north, south))
    for run in (mine, theirs):
        wait_state(run, RunState.RUNNING)
    with pytest.raises(UnknownRunError):
        south.run(mine.id).cancel()
    mine.cancel()
    wait_state(mine, RunState.CANCELLED)
    assert theirs.status().state is RunState.RUNNING
    theirs.cancel()


def test_every_key_carries_the_name_of_its_fleet(
    shared_server: ValkeyServer, north: Fleet, south: Fleet
) -> None:
    for fleet in (north, south):
        fleet.enqueue("tree.leaf").result(timeout=20)
    with shared_server.client() as client:
        keys = [key.decode() for key in client.keys("*")]
    strange = [key for key in keys if not re.match(r"(\{(north|south):0\}:|(north|south):)", key)]
    assert strange == []
