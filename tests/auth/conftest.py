"""Fleets whose workers take signed runs only."""

from collections.abc import Callable, Iterator

import pytest

from skillfleet_producer import Fleet
from tests.auth.keys import Keys, make_keys
from tests.support.fleet import FleetWorker, fleet_starter
from tests.support.valkey import ValkeyServer, running_server

StartWorker = Callable[..., FleetWorker]


@pytest.fixture
def start_worker(server: ValkeyServer) -> Iterator[StartWorker]:
    """Starts workers of the test's own on `server`."""
    with fleet_starter(server) as start:
        yield start


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys that all tests of a module share."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def guarded(keys: Keys) -> Iterator[ValkeyServer]:
    """A server with one worker that takes signed runs only, for all tests of a module."""
    options = keys.worker_settings() | {"reap_seconds": 0.2, "stranded_seconds": 2}
    with running_server() as server, FleetWorker(server, "tests.auth.agents", **options):
        yield server


@pytest.fixture
def fleet(guarded: ValkeyServer, keys: Keys) -> Iterator[Fleet]:
    """A producer whose key the worker trusts."""
    with Fleet(settings=keys.settings(guarded.producer_url)) as fleet:
        yield fleet
