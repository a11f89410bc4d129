"""Fixtures that every test may use."""

from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest

from tests.support.fleet import POOLS
from tests.support.valkey import ValkeyServer, running_server

# Fixtures that start workers for many tests: for all of a folder, or of one module.
OF_FOLDER = frozenset({"shared", "shared_fleets", "shared_workers", "watched_fleets"})
OF_MODULE = frozenset(
    {
        "forest",
        "guarded",
        "calling_server",
        "house",
        "kit_server",
        "locked",
        "measured",
        "newsroom",
        "secured",
    }
    | {"shared_server", "talkers", "woods"}
)


def pytest_configure() -> None:
    """Workers find adapters by entry points, which are written when the project is installed."""
    if not entry_points(group="skillfleet.discovery"):
        pytest.exit("the installation is older than pyproject.toml: run `make install`", 4)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a worker share an xdist group: it is started once, in one process."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("xdist_group") or not fixtures & (OF_FOLDER | OF_MODULE):
            continue
        place = item.path.parent.name if fixtures & OF_FOLDER else item.path.stem
        callspec = getattr(item, "callspec", None)
        values = callspec.params.values() if callspec is not None else ()
        pool = next((value for value in values if value in POOLS), POOLS[0])
        item.add_marker(pytest.mark.xdist_group(f"{place}-{pool}"))


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
