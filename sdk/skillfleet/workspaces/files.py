"""The files of a workspace as producers see them: without grants and limits of skills."""

import asyncio
import builtins
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from skillfleet.errors import WorkspaceBusy, WorkspaceDenied
from skillfleet.ports.workspace import FileInfo, WorkspaceStorage
from skillfleet.workspaces.archive import (
    LARGEST_FILE,
    MEBIBYTE,
    ArchiveLimits,
    Source,
    packed,
    unpacked,
)
from skillfleet.workspaces.commit import (
    commit,
    is_unfinished,
    recover,
    recover_unheld,
    uninterrupted,
)
from skillfleet.workspaces.names import TakenNames, check_path
from skillfleet.workspaces.overlay import Changes, Overlay, Staged, clear_overlay, digest_of
from skillfleet.workspaces.sweeping import upload_id

_PATIENCE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
MOST_ENTRIES: Final = 10_000
MOST_ARCHIVE_BYTES: Final = 1024 * MEBIBYTE


class WorkspaceFiles:
    """The files of a workspace, to put in and take out.

    All methods raise `WorkspaceDenied` for a path that is unsafe or leads through a link. Those
    that write raise `WorkspaceBusy` while a run has the right to write for longer than five
    seconds. A write is durable when the call returns.
    """

    def __init__(self, storage: WorkspaceStorage) -> None:
        self._storage = storage
        self._holder = f"producer {socket.gethostname()}, process {os.getpid()}"

    async def put(self, path: str, data: bytes) -> None:
        """Create or replace a file as a whole; at most 100 MiB."""
        check_path(path)
        if not isinstance(data, bytes):
            raise WorkspaceDenied(f"{path!r}: put bytes, not {type(data).__name__}")
        if len(data) > LARGEST_FILE:
            raise WorkspaceDenied(f"{path!r} has {len(data)} bytes, more than {LARGEST_FILE}")
        async with self._writing():
            await self._storage.files.write(path, data)

    async def get(self, path: str) -> bytes:
        """Return the content of a file; raises `FileNotFoundError` where there is none."""
        await recover_unheld(self._storage, self._holder)
        data = await self._storage.files.read(path)
        if data is None:
            raise FileNotFoundError(f"the workspace has no file {path!r}")
        return data

    async def list(self) -> builtins.list[FileInfo]:
        """Return all files by path."""
        await recover_unheld(self._storage, self._holder)
        return await self._storage.files.list()

    async def delete(self, path: str) -> bool:
        """Delete a file; False when there is none."""
        check_path(path)
        async with self._writing():
            return await self._storage.files.delete(path)

    async def upload_tar(
        self,
        source: Source,
        *,
        max_files: int = MOST_ENTRIES,
        max_bytes: int = MOST_ARCHIVE_BYTES,
    ) -> builtins.list[str]:
        """Put all files of a tar archive, or none; returns the paths that changed.

        `source` are bytes, an open binary file, or an iterable of bytes; the archive may be
        gzipped. It is read in pieces. Files that it does not name stay. Modes, owners, times and
        empty folders are not kept.

        Raises `WorkspaceDenied` for links, devices, paths that are unsafe or collide, a file of
        more than 100 MiB, and an archive above `max_files` entries or `max_bytes` unpacked.
        Raises `InvalidArgumentsError` for what is no tar archive, or ends in its middle.
        """
        overlay = Overlay(self._storage.state, upload_id())
        wanted: Changes = {}
        try:
            async for path, data in unpacked(source, ArchiveLimits(max_files, max_bytes)):
                digest = await overlay.keep(data)
                wanted[path] = Staged(base=None, content=digest, size_bytes=len(data))
            async with self._writing():
                return await uninterrupted(self._apply(overlay, wanted))
        except BaseException:
            # What a commit has begun needs the contents: the next use of the workspace ends it.
            if not await is_unfinished(self._storage):
                await clear_overlay(self._storage.state, overlay.grant_id)
            raise

    async def download_tar(self) -> AsyncIterator[bytes]:
        """Yield a tar archive of all files in pieces, each file as it is when its turn comes."""
        await recover_unheld(self._storage, self._holder)
        async for piece in packed(self._storage.files, int(time.time())):
            yield piece

    async def _apply(self, overlay: Overlay, wanted: Changes) -> builtins.list[str]:
        """Commit the wanted files as changes of those that are there; the right is held."""
        files = self._storage.files
        taken = TakenNames([*wanted, *(info.path for info in await files.list())])
        for path, staged in wanted.items():
            taken.check(path)
            base = digest_of(await files.read(path))
            if base != staged.content:
                overlay.changes[path] = staged.model_copy(update={"base": base})
        return await commit(self._storage, overlay)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """Hold the right to write, once it is free."""
        end = time.monotonic() + _PATIENCE_SECONDS
        async with AsyncExitStack() as stack:
            while True:
                try:
                    await stack.enter_async_context(self._storage.writer(self._holder))
                    break
                except WorkspaceBusy:
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(_PAUSE_SECONDS)
            await recover(self._storage)
            yield
