"""Overlays of killed workers: the patch is that of a run that was not interrupted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillfleet_producer import Fleet
from tests.adapters.sandbox.conftest import open_folder, require
from tests.support.fleet import POOL_FORMS
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


@pytest.fixture
def settings(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of workers with workspaces and sandboxes; the producer has the former, too."""
    require("bubblewrap")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE", "directory")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE_DIRECTORY", str(tmp_path / "workspaces"))
    return {
        "lease_seconds": 1,
        "reap_seconds": 0.2,
        "sandbox": "bubblewrap",
        "sandbox_directory": place / "sandboxes",
    }


@pytest.fixture
def fleet(server: ValkeyServer, settings: dict[str, Any]) -> Iterator[Fleet]:
    """A producer with the settings of workspaces."""
    assert settings
    with Fleet(server.producer_url) as fleet:
        yield fleet


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_worker_killed_within_a_step_leaves_nothing_of_it_in_the_patch(
    start_worker: StartWorker,
    fleet: Fleet,
    settings: dict[str, Any],
    tmp_path: Path,
    pool: str,
) -> None:
    """The first half of the lost step is staged when the worker dies, and another step recorded."""
    go_on = tmp_path / "go on"
    killed, whole = (fleet.session(name) for name in ("killed", "whole"))
    for session in (killed, whole):
        for path, data in BEFORE.items():
            session.workspace.put(path, data)
    first = start_worker("tests.worker.boxed_drafts", pool=pool, **settings)
    run = killed.enqueue("drafts.build", {"until": str(go_on)})
    wait_until(lambda: len(run.steps()) == 2, 30, what="the first step and the one beside")
    first.kill()
    go_on.touch()
    start_worker("tests.worker.boxed_drafts", pool=pool, **settings)
    expected = whole.enqueue("drafts.build", {"until": str(go_on)}).result(timeout=60)
    assert run.result(timeout=60) == expected == PATCH
    assert run.status().attempt == 2
    for session in (killed, whole):
        files = {info.path: session.workspace.get(info.path) for info in session.workspace.list()}
        assert files == BEFORE
