"""The storage of a workspace in the object store.

Every call looks at the workspace's present manifest, whose name is in the ledger. An attempt
collects its changes and publishes them as a whole: before a step or wait is recorded, when it gives
the right to write back, as at the end of a commit, and at its end. A producer publishes each change
of a file at once, unless it has the right to write.

A publication is made upon the present manifest and again where another came first: the paths that
it changes are those that it writes, all others stay as they are. Two writers of one file are kept
apart by the right to write.
"""

import asyncio
import builtins
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from skillfleet.errors import (
    CheckpointError,
    FleetUnavailableError,
    ObjectStoreError,
    WorkspaceConflict,
    WorkspaceDenied,
)
from skillfleet.ports.workspace import FileContent, FileInfo, FileStore, WorkspaceStorage
from skillfleet.workspaces.names import TakenNames, check_path
from skillfleet_adapters.checkpoint.tree import CHUNK_BYTES, Chunk
from skillfleet_adapters.workspace.local_files import PackCache, Spool
from skillfleet_adapters.workspace.manifest import Chunks, Manifest, size_of
from skillfleet_adapters.workspace.objects import WorkspaceObjects
from skillfleet_adapters.workspace.publication import Publication
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.workspaces import Published, Workspaces, Writer

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 30.0
"""How long a call waits for Redis."""
_MOST_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.02
_MOST_FILES: Final = 100_000
_FILES: Final = "files/"
_STATE: Final = "state/"


@dataclass(frozen=True)
class WorkspaceLedger:
    """The ledger's part of a workspace, for one writer."""

    workspace: str
    workspaces: Workspaces
    writer: Writer
    at_home: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
    """Awaits a coroutine on the loop of the ledger's connection."""

    async def manifest(self) -> str:
        """Return the name of the present manifest."""
        return await self._ask(lambda: self.workspaces.manifest(self.workspace))

    async def note(self) -> None:
        """Note the workspace before its first objects are written."""
        await self._ask(lambda: self.workspaces.note(self.workspace))

    async def publish(self, before: str, after: str, right: str, *, files: bool) -> bool:
        """Make `after` the manifest; False where `before` is not the manifest any more.

        Raises LeaseLostError, and WorkspaceBusy (`Workspaces.publish`).
        """
        args = (self.workspace, before, after, self.writer, right)
        found = await self._ask(lambda: self.workspaces.publish(*args, files=files))
        if found is Published.LOST:
            raise LeaseLostError(self.writer.run_id)
        return found is Published.DONE

    async def hold(self, right: str, holder: str) -> None:
        """Take the right to write; raises LeaseLostError, WorkspaceBusy."""
        args = (self.workspace, right, holder, self.writer)
        if not await self._ask(lambda: self.workspaces.hold(*args)):
            raise LeaseLostError(self.writer.run_id)

    async def give_back(self, right: str) -> None:
        """See `Workspaces.give_back`."""
        await self._ask(lambda: self.workspaces.give_back(self.workspace, right))

    async def _ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        found: T = await self.at_home(retry_until(_PATIENCE_SECONDS, work))
        return found


class ObjectStorage(WorkspaceStorage):
    """The storage of one workspace, for one attempt or for producers. One event loop."""

    def __init__(
        self, ledger: WorkspaceLedger, objects: WorkspaceObjects, cache: PackCache
    ) -> None:
        self._ledger = ledger
        self._objects = objects
        self._spool = Spool(cache)
        self._name = ""
        self._manifest = Manifest()
        self._changes: dict[str, Chunks | None] = {}
        """What is not published yet, by path; None is a deletion."""
        self._right = ""
        self._taken: TakenNames | None = None
        """The names of the files, once they are needed."""
        self._failure: BaseException | None = None
        self._lock = asyncio.Lock()

    @property
    def files(self) -> FileStore:
        """See `WorkspaceStorage.files`."""
        return _StoredFiles(self, _FILES)

    @property
    def state(self) -> FileStore:
        """See `WorkspaceStorage.state`."""
        return _StoredFiles(self, _STATE)

    @asynccontextmanager
    async def writer(self, holder: str) -> AsyncIterator[None]:
        """See `WorkspaceStorage.writer`: the right is in the ledger, and ends with the lease."""
        right = secrets.token_hex(16)
        try:
            await self._ledger.hold(right, holder)
            await self.current()
            self._right = right
            try:
                yield
            finally:
                await self._settle()
        finally:
            # Also where the answer did not arrive: it may have been taken.
            if self._right == right:
                self._right = ""
            with contextlib.suppress(FleetUnavailableError):
                await self._ledger.give_back(right)

    async def flush(self) -> None:
        """Publish the changes; raises LeaseLostError for an attempt that may not write any more."""
        if self._changes:
            async with self._lock:
                await self._publish()

    async def aclose(self) -> None:
        """Publish what the attempt has left, and drop it where that cannot be."""
        try:
            if self._failure is None:
                await self.flush()
        except LeaseLostError:
            pass  # Another attempt writes now: it does again what is not recorded.
        finally:
            self._restore({})

    async def _settle(self) -> None:
        """Publish at the end of a right; an attempt that cannot do so must not go on."""
        try:
            await self.flush()
        except BaseException as error:
            self._failure = error
            self._restore({})
            raise

    def _restore(self, changes: dict[str, Chunks | None]) -> None:
        """Drop all other changes that are not published."""
        self._changes = changes
        self._taken = None
        if not changes:
            self._spool.clear()

    async def content(self, path: str) -> bytes | None:
        """Return a file's content; None where there is none."""
        name = None
        for _ in range(_MOST_TRIES):
            manifest = await self.current()
            chunks = self.chunks(manifest, path)
            if chunks is None:
                return None
            try:
                return b"".join([await self._piece(manifest, chunk) for chunk in chunks])
            except CheckpointError as error:
                # A newer manifest may have replaced the pack in between; a damaged one stays.
                if name == self._name:
                    raise _damaged(error) from error
                name = self._name
        raise _busy_with_changes()

    async def pieces(self, path: str) -> AsyncIterator[bytes]:
        """Yield a file's content in pieces, without holding more of it than one."""
        manifest = await self.current()
        for chunk in self.chunks(manifest, path) or ():
            try:
                yield await self._piece(manifest, chunk)
            except CheckpointError as error:
                raise ObjectStoreError(
                    f"the file {path.removeprefix(_FILES)!r} was replaced while it was read, or"
                    f" is damaged: {error}"
                ) from error

    async def change(self, path: str, data: bytes | None) -> None:
        """Write or delete a file: in the next publication, or at once."""
        async with self._lock:
            manifest = await self.current()
            if data is not None:
                self._check_new(manifest, path)
            elif path not in manifest.files:
                self._forget(path)
                return
            is_alone = not (self._ledger.writer.run_id or self._right)
            at_once = is_alone and path.startswith(_FILES)
            before = self._changes.copy() if at_once else {}
            chunks = None if data is None else await asyncio.to_thread(self._spool.add, data)
            self._changes[path] = chunks
            self._rename(path, is_there=chunks is not None)
            if at_once:
                try:
                    await self._publish()
                except BaseException:
                    self._restore(before)
                    raise

    async def current(self, *, renew: bool = False) -> Manifest:
        """Return the present manifest; while the right is held, the one that it began with.

        Others then change only what is theirs in the state. `renew` asks for it all the same.
        """
        if self._failure is not None:
            raise self._failure
        if self._right and not renew:
            return self._manifest
        failed = None
        for _ in range(_MOST_TRIES):
            name = await self._ledger.manifest()
            if name == self._name:
                return self._manifest
            try:
                manifest = await self._objects.manifest(name)
            except CheckpointError as error:
                # It may have been replaced, and deleted, in between.
                if failed == name:
                    raise _damaged(error) from error
                failed = name
            else:
                self._name, self._manifest, self._taken = name, manifest, None
                return manifest
        raise _busy_with_changes()

    def chunks(self, manifest: Manifest, path: str) -> Chunks | None:
        """Return a file's chunks, with the changes; None where there is no file."""
        if path in self._changes:
            return self._changes[path]
        return manifest.files.get(path)

    def sizes(self, manifest: Manifest, folder: str) -> dict[str, int]:
        """Return the sizes of the files in a folder, by path, with the changes."""
        files: dict[str, Chunks | None] = {**manifest.files, **self._changes}
        return {
            path.removeprefix(folder): size_of(chunks)
            for path, chunks in files.items()
            if chunks is not None and path.startswith(folder)
        }

    async def _piece(self, manifest: Manifest, chunk: Chunk) -> bytes:
        found = await asyncio.to_thread(self._spool.read, chunk)
        return found or await self._objects.chunk(manifest, chunk)

    def is_folder(self, manifest: Manifest, path: str) -> bool:
        """Return whether a path of the files is that of a folder."""
        return self._names(manifest).is_folder(path.removeprefix(_FILES))

    def _names(self, manifest: Manifest) -> TakenNames:
        if self._taken is None:
            self._taken = TakenNames(self.sizes(manifest, _FILES))
        return self._taken

    def _check_new(self, manifest: Manifest, path: str) -> None:
        """Raise `WorkspaceDenied` for a new file that cannot stand beside the others."""
        if self.chunks(manifest, path) is not None:
            return
        if len(manifest.files) + len(self._changes) >= _MOST_FILES:
            raise WorkspaceDenied(f"the workspace has {_MOST_FILES} files already")
        if path.startswith(_FILES):
            self._names(manifest).check(path.removeprefix(_FILES))

    def _rename(self, path: str, *, is_there: bool) -> None:
        """Note a changed name."""
        if not path.startswith(_FILES):
            return
        if is_there and self._taken is not None:
            self._taken.add(path.removeprefix(_FILES))
        elif not is_there:
            self._taken = None

    def _forget(self, path: str) -> None:
        """Drop an unpublished change of a path."""
        if self._changes.pop(path, None) is not None:
            self._rename(path, is_there=False)
        if not self._changes:
            self._spool.clear()

    async def _publish(self) -> None:
        changes = dict(self._changes)
        if not changes:
            return
        files = any(path.startswith(_FILES) for path in changes)
        publication = Publication(self._objects, self._spool, changes)
        for tried in range(_MOST_TRIES):
            manifest = await self.current(renew=True)
            before = self._name
            self._check_upon(manifest, changes)
            if not before:
                await self._ledger.note()
            try:
                name, after = await publication.upon(manifest)
            except CheckpointError as error:
                if await self._ledger.manifest() == before:
                    raise _damaged(error) from error
                continue
            if await self._ledger.publish(before, name, self._right, files=files):
                self._name, self._manifest = name, after
                self._restore({})
                await self._discard(before, manifest, after)
                return
            await asyncio.sleep(random.random() * _PAUSE_SECONDS * tried)  # noqa: S311 - a pause
        raise _busy_with_changes()

    def _check_upon(self, manifest: Manifest, changes: dict[str, Chunks | None]) -> None:
        """Raise `WorkspaceDenied` where others have created what collides with a new file."""
        new = [
            path
            for path, chunks in changes.items()
            if chunks is not None and path.startswith(_FILES) and path not in manifest.files
        ]
        if new:
            kept = (path for path in manifest.files if changes.get(path, ()) is not None)
            taken = TakenNames([*new, *(path for path in kept if path.startswith(_FILES))])
            for path in new:
                taken.check(path)

    async def _discard(self, name: str, before: Manifest, after: Manifest) -> None:
        """Delete what the new manifest does not use any more; what stays is swept later."""
        unused = [name, *(before.packs.keys() - after.packs.keys())]
        with contextlib.suppress(ObjectStoreError):
            await self._objects.discard([key for key in unused if key])


class _StoredFiles(FileStore):
    """The files of a storage below one of its two folders."""

    def __init__(self, storage: ObjectStorage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    async def list(self) -> builtins.list[FileInfo]:
        """See `FileStore.list`."""
        sizes = self._storage.sizes(await self._storage.current(), self._folder)
        return [FileInfo(path, size) for path, size in sorted(sizes.items())]

    async def stat(self, path: str) -> FileInfo | None:
        """See `FileStore.stat`."""
        check_path(path)
        manifest, stored = await self._storage.current(), self._folder + path
        chunks = self._storage.chunks(manifest, stored)
        if chunks is not None:
            return FileInfo(path, size_of(chunks))
        # The state beside the files has no names that are not of skillfleet's own rules.
        if self._folder == _FILES and self._storage.is_folder(manifest, stored):
            raise WorkspaceDenied(f"the path {path!r} is refused: it is a folder")
        return None

    async def read(self, path: str) -> bytes | None:
        """See `FileStore.read`."""
        if await self.stat(path) is None:
            return None
        return await self._storage.content(self._folder + path)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[FileContent | None]:
        """See `FileStore.open`: a file that is replaced meanwhile may end in an error."""
        info = await self.stat(path)
        if info is None or info.size_bytes <= CHUNK_BYTES:
            async with super().open(path) as content:
                yield content
        else:
            yield FileContent(info.size_bytes, self._storage.pieces(self._folder + path))

    async def write(self, path: str, data: bytes) -> None:
        """See `FileStore.write`."""
        check_path(path)
        await self._storage.change(self._folder + path, bytes(data))

    async def delete(self, path: str) -> bool:
        """See `FileStore.delete`."""
        if await self.stat(path) is None:
            return False
        await self._storage.change(self._folder + path, None)
        return True


def _damaged(error: CheckpointError) -> ObjectStoreError:
    return ObjectStoreError(
        f"the workspace cannot be read from the object store: {error}", retryable=False
    )


def _busy_with_changes() -> WorkspaceConflict:
    return WorkspaceConflict(
        f"the workspace was changed {_MOST_TRIES} times while this call was at it; try again"
    )
