"""The sweep of workspaces: what ended runs and sessions have left, and nothing else."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.workspaces import sweeping
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.commit import is_unfinished
from skillfleet.workspaces.directory import DirectoryWorkspaces, folder_name
from skillfleet.workspaces.files import WorkspaceFiles
from skillfleet.workspaces.sweeping import DirectorySweep, sweep_state
from tests.adapters.workspace.killed_commit import attempt_of

SESSION_SECONDS = 30 * 86_400
ACCESS = WorkspaceAccess.dynamic(allowed_modes=tuple(WorkspaceMode), require_reason=False)


@dataclass
class Known:
    """The records of a fleet."""

    live: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)

    async def live_runs(self, run_ids: Collection[str]) -> set[str]:
        return self.live & set(run_ids)

    meanwhile: Callable[[], Awaitable[object]] | None = None
    """Happens while a sweep asks for records of runs."""

    async def recorded_runs(self, run_ids: Collection[str]) -> set[str]:
        if self.meanwhile is not None:
            await self.meanwhile()
        return self.runs & set(run_ids)

    async def recorded_sessions(self, sessions: Collection[str]) -> set[str]:
        return self.sessions & set(sessions)


class Place:
    """A directory of workspaces with its sweep."""

    def __init__(self, directory: Path) -> None:
        self.workspaces = DirectoryWorkspaces(directory)
        self.known = Known()
        self._sweep = DirectorySweep(self.workspaces, self.known, SESSION_SECONDS)

    def folder(self, identifier: str) -> Path:
        return self.workspaces.directory / folder_name(identifier)

    async def fill(self, identifier: str, unused: float = 0) -> None:
        """Make a workspace that was last used so many seconds ago."""
        await WorkspaceFiles(self.workspaces.storage(identifier)).put("a.txt", b"1")
        at = time.time() - unused
        os.utime(self.folder(identifier) / "beside" / "name", (at, at))

    async def sweep(self) -> list[str]:
        """Sweep, whenever that was done before; returns the folders that are left."""
        (self.workspaces.directory / ".sweep").unlink(missing_ok=True)
        await self._sweep.sweep()
        return self.left()

    def left(self) -> list[str]:
        return sorted(each.name for each in self.workspaces.directory.iterdir() if each.is_dir())

    async def stage(self, run: str) -> None:
        """Stage a change for a run, in the workspace of the session s."""
        storage = self.workspaces.storage("session:/s")
        attempt = attempt_of(run, self.workspaces, "session:/s")
        client = StoredWorkspaceClient(storage, ACCESS, attempt)
        view = await client.open_view(
            purpose="", hints=["a.txt"], mode=WorkspaceMode.READ_WRITE_OVERLAY
        )
        await view.write("a.txt", run.encode())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_folders_go_with_their_sessions_and_runs_once_they_are_unused(place: Place) -> None:
    long, short = SESSION_SECONDS + 60, 3700.0
    kept = [("session:/recorded", long), ("session:/new", short), ("run:recorded", long)]
    kept += [("run:new", 0), ("other:kind", long)]
    for identifier, unused in (*kept, ("session:/gone", long), ("run:gone", short)):
        await place.fill(identifier, unused)
    place.known.sessions.add("/recorded")
    place.known.runs.add("recorded")
    (place.workspaces.directory / "not a workspace").mkdir()
    (place.workspaces.directory / ".deleted-half").mkdir()
    expected = sorted([*(folder_name(each) for each, _ in kept), "not a workspace"])
    assert await place.sweep() == expected


async def test_one_process_sweeps_in_ten_minutes(place: Place) -> None:
    await place.fill("run:one", 4000)
    assert await place.sweep() == []
    await place.fill("run:two", 4000)
    sweep = DirectorySweep(DirectoryWorkspaces(place.workspaces.directory), place.known, 1)
    await sweep.sweep()
    assert place.left() == [folder_name("run:two")]
    mark = place.workspaces.directory / ".sweep"
    os.utime(mark, (time.time() - 700,) * 2)
    await sweep.sweep()
    assert place.left() == []


async def test_a_workspace_in_use_is_not_removed(place: Place) -> None:
    await place.fill("run:gone", 4000)
    storage = place.workspaces.storage("run:gone")
    async with storage.locked("somebody"):
        assert await place.sweep() == [folder_name("run:gone")]
    await WorkspaceFiles(storage).put("b.txt", b"2")
    assert await place.sweep() == [folder_name("run:gone")]


async def test_a_workspace_that_is_used_during_the_sweep_stays(place: Place) -> None:
    await place.fill("run:gone", 4000)
    files = WorkspaceFiles(place.workspaces.storage("run:gone"))
    place.known.meanwhile = lambda: files.put("b.txt", b"2")
    assert await place.sweep() == [folder_name("run:gone")]
    assert await files.get("b.txt") == b"2"


async def test_who_waits_for_a_workspace_that_is_swept_gets_a_new_one(place: Place) -> None:
    await place.fill("run:gone", 4000)
    files = WorkspaceFiles(place.workspaces.storage("run:gone"))
    await files.put("b.txt", b"2")
    at = time.time() - 4000
    os.utime(place.folder("run:gone") / "beside" / "name", (at, at))
    assert await place.sweep() == []
    assert await files.list() == []
    await files.put("c.txt", b"3")
    assert await files.get("c.txt") == b"3"
    os.utime(place.folder("run:gone") / "beside" / "name", (at, at))
    assert await place.sweep() == []


async def test_grants_and_overlays_of_ended_runs_are_deleted(place: Place) -> None:
    await place.fill("session:/s")
    place.known.sessions.add("/s")
    for run in ("ended", "live"):
        await place.stage(run)
    place.known.live.add("live")
    state = place.workspaces.storage("session:/s").state
    before = len(await state.list())
    await place.sweep()
    assert len(await state.list()) == before / 2
    place.known.live.clear()
    async with place.workspaces.storage("session:/s").writer("a run"):
        await place.sweep()
        assert await state.list()
    await place.sweep()
    assert await state.list() == []
    assert await WorkspaceFiles(place.workspaces.storage("session:/s")).get("a.txt") == b"1"


async def test_an_unfinished_commit_is_ended_before_its_overlay_goes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.fill("session:/s")
    storage = place.workspaces.storage("session:/s")

    async def dies(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr("skillfleet.workspaces.commit._apply", dies)
        attempt = attempt_of("ended", place.workspaces, "session:/s")
        client = StoredWorkspaceClient(storage, ACCESS, attempt)
        view = await client.open_view(
            purpose="", hints=["a.txt"], mode=WorkspaceMode.READ_WRITE_OVERLAY
        )
        await view.write("a.txt", b"2")
        with pytest.raises(asyncio.CancelledError):
            await view.commit()
    assert await is_unfinished(storage)
    await sweep_state(storage, place.known)
    assert await WorkspaceFiles(storage).get("a.txt") == b"2"
    assert await storage.state.list() == []


async def test_an_upload_that_was_given_up_is_deleted_after_a_day(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = place.workspaces.storage("session:/s")
    await storage.state.write(f"overlays/{sweeping.upload_id()}/content", b"1")
    await sweep_state(storage, place.known)
    assert len(await storage.state.list()) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_500)
    await sweep_state(storage, place.known)
    assert await storage.state.list() == []


async def test_reading_a_workspace_that_does_not_exist_makes_none(place: Place) -> None:
    files = WorkspaceFiles(place.workspaces.storage("session:/typo"))
    assert await files.list() == []
    with pytest.raises(FileNotFoundError):
        await files.get("a.txt")
    assert [piece async for piece in files.download_tar()] == [bytes(1024)]
    assert place.left() == []
