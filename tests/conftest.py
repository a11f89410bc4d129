"""Fixtures that every test may use."""

from collections.abc import Iterator

import pytest

from tests.support.valkey import ValkeyServer, running_server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One real server for each test process; use `valkey` for an empty one."""
    with running_server() as server:
        yield server


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, which it may stop."""
    with running_server() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """The test process's server, emptied."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server
