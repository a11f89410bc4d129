"""The storage of workspaces in folders of a local or shared volume."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from skillfleet.ports.workspace import WorkspaceProvider, WorkspaceStorage
from skillfleet.workspaces.folder import FolderFiles
from skillfleet.workspaces.names import busy

_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_HOLDER_BYTES: Final = 1000
_STALE_SECONDS: Final = 86_400
_USE_SECONDS: Final = 60.0


class DirectoryStorage(WorkspaceStorage):
    """A workspace in a folder; `beside`, on the same volume, has its state and its lock.

    Folders are made by the first write. `beside/name` has the `identifier`; its time is that of
    the last use, give or take a minute.
    """

    def __init__(self, files: Path, beside: Path, identifier: str = "") -> None:
        self._folder = files
        self._beside = beside
        self._identifier = identifier
        self._used_at = -_USE_SECONDS

    @property
    def files(self) -> FolderFiles:
        """See `WorkspaceStorage.files`."""
        return FolderFiles(self._folder, self._beside / "scratch", self._prepare)

    @property
    def state(self) -> FolderFiles:
        """See `WorkspaceStorage.state`."""
        return FolderFiles(self._beside / "state", self._beside / "scratch", self._prepare)

    def _prepare(self) -> None:
        """Make the folders, which may have been swept, and note the use."""
        for folder in (self._folder, self._beside / "state", self._beside / "scratch"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name, now = self._beside / "name", time.monotonic()
        if now - self._used_at >= _USE_SECONDS or not name.exists():
            name.write_text(self._identifier)
            self._used_at = now

    @asynccontextmanager
    async def writer(self, holder: str) -> AsyncIterator[None]:
        """See `WorkspaceStorage.writer`: a lock of the system, which ends with its process."""
        await asyncio.to_thread(self._prepare)
        async with self.locked(holder):
            yield

    @asynccontextmanager
    async def locked(self, holder: str) -> AsyncIterator[None]:
        """Hold the right to write, without noting a use."""
        locking = asyncio.ensure_future(asyncio.to_thread(self._lock, holder))
        try:
            lock = await asyncio.shield(locking)
        except asyncio.CancelledError:
            # The thread ends all the same, and no other code would release its lock.
            locking.add_done_callback(_release)
            raise
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _lock(self, holder: str) -> int:
        while True:
            with contextlib.suppress(FileNotFoundError):
                lock = self._try_lock(holder)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), (self._beside / "lock").stat()):
                        return lock
                os.close(lock)
            # The workspace was swept in between.
            self._prepare()

    def _try_lock(self, holder: str) -> int:
        lock = os.open(self._beside / "lock", _LOCK, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            name = os.pread(lock, _MOST_HOLDER_BYTES, 0).decode(errors="replace")
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise busy(name) from None
            raise
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, holder.encode()[:_MOST_HOLDER_BYTES], 0)
            self._sweep()
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _sweep(self) -> None:
        """Remove the unfinished files of processes that were killed."""
        limit = time.time() - _STALE_SECONDS
        for file in (self._beside / "scratch").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if file.lstat().st_mtime < limit:
                    file.unlink()


def _release(locking: "asyncio.Future[int]") -> None:
    if not locking.cancelled() and locking.exception() is None:
        os.close(locking.result())


class DirectoryWorkspaces(WorkspaceProvider):
    """A provider of a folder for each workspace, below one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """The folder of all workspaces."""

    def storage(self, identifier: str) -> DirectoryStorage:
        """See `WorkspaceProvider.storage`."""
        folder = self.directory / folder_name(identifier)
        return DirectoryStorage(folder / "files", folder / "beside", identifier)


class OneDirectory(WorkspaceProvider):
    """A provider of one existing folder, whatever the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve(strict=True)

    def storage(self, identifier: str) -> DirectoryStorage:
        """Return the folder's storage; its state is in a hidden folder next to it."""
        del identifier
        beside = self._folder.parent / f".{self._folder.name}.workspace"
        return DirectoryStorage(self._folder, beside)


def folder_name(identifier: str) -> str:
    """Return the name of a workspace's folder: readable, and distinct by a digest."""
    readable = re.sub(r"[^a-z0-9]+", "-", identifier.lower()).strip("-")[:40].strip("-")
    return f"{readable}-{hashlib.sha256(identifier.encode()).hexdigest()[:32]}"
