"""A remote agent, and a fleet that may call it."""

from collections.abc import Iterator

import pytest

from skillfleet_producer import Fleet
from tests.adapters.a2a.remote_agent import RemoteAgent, calling_fleet
from tests.support.valkey import ValkeyServer


@pytest.fixture(scope="module")
def remote_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteAgent]:
    """The remote agent, for all tests of a module."""
    agent = RemoteAgent(tmp_path_factory.mktemp("remote_agent"))
    yield agent
    agent.close()


@pytest.fixture(scope="module")
def calling_server() -> Iterator[ValkeyServer]:
    """A fleet that may call it."""
    with calling_fleet() as server:
        yield server


@pytest.fixture
def caller(calling_server: ValkeyServer) -> Iterator[Fleet]:
    """A producer of that fleet."""
    with Fleet(calling_server.producer_url) as fleet:
        yield fleet
