"""One fleet that the tests of this folder share: a server, an event-loop worker, a producer."""

from collections.abc import AsyncIterator, Iterator

import pytest

from skillfleet_producer import AsyncFleet, Fleet
from tests.support.fleet import fleet_starter
from tests.support.valkey import ValkeyServer
from tests.worker.shared import Shared, StartWorker


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    """The server, its worker and a producer."""
    with Shared.started("loop") as started:
        yield started


@pytest.fixture
def fleet(shared: Shared) -> Fleet:
    """The shared producer."""
    return shared.fleet


@pytest.fixture
async def async_fleet(shared: Shared) -> AsyncIterator[AsyncFleet]:
    """An asynchronous producer of the shared fleet."""
    async with AsyncFleet(shared.server.producer_url) as fleet:
        yield fleet


@pytest.fixture
def start_worker(valkey: ValkeyServer) -> Iterator[StartWorker]:
    """Starts workers of the test's own on the emptied server."""
    with fleet_starter(valkey) as start:
        yield start


@pytest.fixture
def own_fleet(valkey: ValkeyServer) -> Iterator[Fleet]:
    """A producer on the emptied server."""
    with Fleet(valkey.producer_url) as fleet:
        yield fleet
