"""The sweep: removes grants and overlays of runs that ended, and folders of ended sessions."""

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from skillfleet.errors import WorkspaceBusy
from skillfleet.ports.workspace import WorkspaceStorage
from skillfleet.workspaces.commit import recover
from skillfleet.workspaces.desk import GRANTS, KEPT
from skillfleet.workspaces.directory import DirectoryStorage, DirectoryWorkspaces, folder_name
from skillfleet.workspaces.overlay import OVERLAYS, clear_overlay

_HOLDER: Final = "the sweep"
_UPLOAD: Final = "upload-"
_LONGEST_UPLOAD_SECONDS: Final = 86_400
_RUN_SECONDS: Final = 3600.0
"""How long the workspace of a run stays unused before it is looked at."""
_PAUSE_SECONDS: Final = 600.0
_DELETED: Final = ".deleted-"


class Records(Protocol):
    """The records of a fleet, which say what is still needed."""

    async def live_runs(self, run_ids: Collection[str]) -> set[str]:
        """Return those of the runs that have not ended."""

    async def recorded_runs(self, run_ids: Collection[str]) -> set[str]:
        """Return those of the runs that are recorded, also when they have ended."""

    async def recorded_sessions(self, sessions: Collection[str]) -> set[str]:
        """Return those of the sessions (names as in `RunScope.session_id`) that are recorded."""


def upload_id() -> str:
    """Return the id of a new upload's overlay, which says when it began."""
    return f"{_UPLOAD}{int(time.time()):x}-{secrets.token_hex(8)}"


async def sweep_state(storage: WorkspaceStorage, records: Records) -> None:
    """Delete the grants and overlays of runs that have ended, and uploads that were given up.

    Nothing is done while another one has the right to write.
    """
    owners, overlays = await _contents(storage)
    live = await records.live_runs(set(owners.values())) if owners else set()
    ended = [path for path, run_id in owners.items() if run_id not in live]
    left = [each for each in overlays if _is_old_upload(each)]
    if not ended and not left:
        return
    with contextlib.suppress(WorkspaceBusy):
        async with storage.writer(_HOLDER):
            await recover(storage)
            for path in ended:
                await clear_overlay(storage.state, Path(path).stem)
                await storage.state.delete(path)
            for each in left:
                await clear_overlay(storage.state, each)


async def _contents(storage: WorkspaceStorage) -> tuple[dict[str, str], set[str]]:
    """Return the run of each kept grant, by its path, and the ids of overlays."""
    owners: dict[str, str] = {}
    overlays = set()
    for info in await storage.state.list():
        if info.path.startswith(OVERLAYS):
            overlays.add(info.path.split("/")[1])
        elif info.path.startswith(GRANTS):
            written = await storage.state.read(info.path)
            if written is not None:
                owners[info.path] = KEPT.validate_json(written).run_id
    return owners, overlays


def _is_old_upload(overlay: str) -> bool:
    if not overlay.startswith(_UPLOAD):
        return False
    began = int(overlay.removeprefix(_UPLOAD).partition("-")[0], 16)
    return time.time() - began > _LONGEST_UPLOAD_SECONDS


class DirectorySweep:
    """The sweep of a directory of workspaces, which all processes of a fleet share.

    A workspace goes when its session, or its run at the root, is no longer recorded, and it was
    not used for `session_seconds`, or an hour: a producer may fill it before its first run.
    """

    def __init__(
        self, workspaces: DirectoryWorkspaces, records: Records, session_seconds: float
    ) -> None:
        self._workspaces = workspaces
        self._records = records
        self._seconds = {"session": session_seconds, "run": _RUN_SECONDS}

    async def sweep(self) -> None:
        """Sweep all workspaces, unless a process of the fleet did so in the last ten minutes."""
        if not self._workspaces.directory.is_dir():
            return
        async with self._turn() as is_mine:
            if is_mine:
                found = await asyncio.to_thread(self._found)
                # The time of a round is limited: another order reaches all of them.
                random.shuffle(found)
                for identifier, unused in found:
                    await self._sweep(identifier, unused)

    async def _sweep(self, identifier: str, unused: float) -> None:
        kind, _, owner = identifier.partition(":")
        storage = self._workspaces.storage(identifier)
        if kind not in self._seconds or unused <= self._seconds[kind]:
            await sweep_state(storage, self._records)
            return
        is_session = kind == "session"
        recorded = self._records.recorded_sessions if is_session else self._records.recorded_runs
        if await recorded([owner]):
            await sweep_state(storage, self._records)
        else:
            await self._remove(identifier, storage)

    async def _remove(self, identifier: str, storage: DirectoryStorage) -> None:
        """Remove a workspace that is still unused once no other process can write to it."""
        folder = self._workspaces.directory / folder_name(identifier)
        limit = self._seconds[identifier.partition(":")[0]]
        target = folder.with_name(f"{_DELETED}{secrets.token_hex(8)}")
        with contextlib.suppress(WorkspaceBusy, FileNotFoundError):
            async with storage.locked(_HOLDER):
                if _unused_seconds(folder) > limit:
                    folder.rename(target)
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)

    def _found(self) -> list[tuple[str, float]]:
        """Return all workspaces with the seconds since their last use; remove earlier remains."""
        found = []
        for folder in self._workspaces.directory.iterdir():
            if folder.name.startswith(_DELETED):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
                identifier = (folder / "beside" / "name").read_text()
                if folder_name(identifier) == folder.name:
                    found.append((identifier, _unused_seconds(folder)))
        return found

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Yield whether a sweep is due, and no other process is at it."""
        file = os.open(self._workspaces.directory / ".sweep", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            known = os.fstat(file)
            if known.st_size and time.time() - known.st_mtime < _PAUSE_SECONDS:
                yield False
                return
            yield True
            os.pwrite(file, b"swept", 0)
        finally:
            os.close(file)


def _unused_seconds(folder: Path) -> float:
    return time.time() - (folder / "beside" / "name").stat().st_mtime
