"""Workers that the tests of this folder share, and such that one test has for itself."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from skillfleet_producer import Fleet
from tests.support.fleet import fleet_starter
from tests.support.valkey import ValkeyServer
from tests.worker.shared import Shared, StartWorker


@pytest.fixture(scope="session")
def shared_fleets() -> Iterator[Callable[[str], Shared]]:
    """A server, a worker and a fleet for each pool, started when first asked for."""
    with ExitStack() as stack:
        known: dict[str, Shared] = {}

        def get(pool: str) -> Shared:
            if pool not in known:
                known[pool] = stack.enter_context(Shared.started(pool))
            return known[pool]

        yield get


@pytest.fixture(params=["loop", "prefork", "threads"])
def shared(request: pytest.FixtureRequest, shared_fleets: Callable[[str], Shared]) -> Shared:
    """The shared fleet of each pool in turn."""
    return shared_fleets(request.param)


@pytest.fixture
def loop(shared_fleets: Callable[[str], Shared]) -> Shared:
    """The shared fleet of the event-loop pool."""
    return shared_fleets("loop")


@pytest.fixture
def fleet(loop: Shared) -> Fleet:
    """The producer of the shared event-loop fleet."""
    return loop.fleet


@pytest.fixture
def start_worker(server: ValkeyServer) -> Iterator[StartWorker]:
    """Starts workers of the test's own on `server`."""
    with fleet_starter(server) as start:
        yield start


@pytest.fixture
def own_fleet(server: ValkeyServer) -> Iterator[Fleet]:
    """A producer on `server`."""
    with Fleet(server.producer_url) as fleet:
        yield fleet
