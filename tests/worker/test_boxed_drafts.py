"""Overlays of killed workers: the patch is that of a run that was not interrupted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skillfleet_ledger import Settings
from skillfleet_producer import Fleet
from tests.adapters.sandbox.conftest import open_folder, require
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker

BEFORE = {"notes.txt": b"zero\n", "old.txt": b"old"}
PATCH = [
    ["new/b", "create", "1\n2\n"],
    ["noted.txt", "create", "noted"],
    ["notes.txt", "update", "zero\none\ntwo\nthree\n"],
    ["old.txt", "update", ""],
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that the sandboxes' user can pass."""
    with open_folder() as path:
        yield path


@dataclass
class Site:
    """A server, a producer, and the settings of workers."""

    fleet: Fleet
    settings: dict[str, Any]
    folder: Path
    start: StartWorker

    def worker(self, name: str, pool: str) -> FleetWorker:
        """Start a worker, which shares no folder with others but what the storage needs."""
        return self.start(
            "tests.worker.boxed_drafts",
            pool=pool,
            workspace_cache=self.folder / name,
            **self.settings,
        )


@pytest.fixture(params=["directory", "object_store"])
def site(
    request: pytest.FixtureRequest,
    server: ValkeyServer,
    start_worker: StartWorker,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A fleet with sandboxes and each storage of workspaces in turn."""
    require("bubblewrap")
    shared = {
        "workspace_directory": f"{tmp_path}/workspaces",
        "artifacts_url": f"file://{tmp_path}/objects",
    }
    for name, value in (shared | {"workspace_cache": f"{tmp_path}/producer"}).items():
        monkeypatch.setenv(f"SKILLFLEET_{name.upper()}", value)
    settings = shared | {
        "workspace": request.param,
        "lease_seconds": 1,
        "reap_seconds": 0.2,
        "sandbox": "bubblewrap",
        "sandbox_directory": place / "sandboxes",
    }
    own = Settings.load(redis_url=server.producer_url, workspace=request.param)
    with Fleet(settings=own) as fleet:
        yield Site(fleet, settings, tmp_path, start_worker)


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_worker_killed_within_a_step_leaves_nothing_of_it_in_the_patch(
    site: Site, pool: str
) -> None:
    """The first half of the lost step is staged when the worker dies, and another step recorded."""
    go_on = site.folder / "go on"
    killed, whole = (site.fleet.session(name) for name in ("killed", "whole"))
    for session in (killed, whole):
        for path, data in BEFORE.items():
            session.workspace.put(path, data)
    first = site.worker("a", pool)
    run = killed.enqueue("drafts.build", {"until": str(go_on)})
    wait_until(lambda: len(run.steps()) == 2, 30, what="the first step and the one beside")
    first.kill()
    go_on.touch()
    site.worker("b", pool)
    expected = whole.enqueue("drafts.build", {"until": str(go_on)}).result(timeout=60)
    assert run.result(timeout=60) == expected == PATCH
    assert run.status().attempt == 2
    for session in (killed, whole):
        files = {info.path: session.workspace.get(info.path) for info in session.workspace.list()}
        assert files == BEFORE
