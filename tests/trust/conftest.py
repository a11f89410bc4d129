"""Fleets whose workers take signed runs only."""

from collections.abc import Callable, Iterator

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import FleetWorker, fleet_starter
from tests.support.valkey import ValkeyServer, running_server
from tests.trust.elsewhere import Elsewhere, harboured
from tests.trust.keys import Keys, make_keys

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
    with running_server() as server, FleetWorker(server, "tests.trust.agents", **options):
        yield server


@pytest.fixture
def fleet(guarded: ValkeyServer, keys: Keys) -> Iterator[Fleet]:
    """A producer whose key the worker trusts."""
    with Fleet(settings=keys.settings(guarded.producer_url)) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """The agent elsewhere, for all tests of a module."""
    agent = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield agent
    agent.close()


@pytest.fixture(scope="module")
def harbour() -> Iterator[ValkeyServer]:
    """A fleet that may call it."""
    with harboured() as server:
        yield server


@pytest.fixture
def abroad(harbour: ValkeyServer) -> Iterator[Fleet]:
    """A producer of that fleet."""
    with Fleet(harbour.producer_url) as fleet:
        yield fleet
