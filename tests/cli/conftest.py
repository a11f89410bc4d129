"""One fleet for the tests of the verbs: a server, and a worker that the command started."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import AGENTS, Shell
from tests.support.valkey import ValkeyServer, running_server

QUICK = {
    "SKILLFLEET_LEASE_SECONDS": "2",
    "SKILLFLEET_DRAIN_SECONDS": "1",
    # What takes its time to end, for a second Ctrl-C to come before.
    "SKILLFLEET_CANCEL_GRACE_SECONDS": "10",
}


@pytest.fixture(scope="session")
def kit_server() -> Iterator[ValkeyServer]:
    """The server of the shared fleet; no test may empty it."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def shell(kit_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell on a fleet whose worker serves `agents.py`."""
    folder = tmp_path_factory.mktemp("cli")
    shell = Shell(kit_server.url, folder, QUICK, users=True)
    with shell.start("worker", AGENTS, log=folder / "worker.log") as worker:
        worker.wait_for(r" ready\.")
        yield shell


@pytest.fixture
def bare(valkey: ValkeyServer, tmp_path: Path) -> Shell:
    """A shell on an empty server that no worker looks at."""
    return Shell(valkey.url, tmp_path, users=True)
