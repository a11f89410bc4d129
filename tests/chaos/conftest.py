"""The servers, workers and producers of one test, as the worker's tests have them."""

from collections.abc import Iterator

import pytest

from tests.support.valkey import ValkeyServer, running_server
from tests.worker.conftest import own_fleet, start_worker

__all__ = ["own_fleet", "server", "start_worker"]


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, which it may stop; it writes to disk as an operator's does."""
    with running_server("--appendfsync", "everysec") as server:
        yield server
