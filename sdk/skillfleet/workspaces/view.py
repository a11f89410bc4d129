"""Views: the files of a grant, direct or with an overlay."""

import builtins
from typing import Final

from skillfleet.contracts import WorkspaceMode
from skillfleet.contracts.grants import FileOperation
from skillfleet.errors import WorkspaceDenied
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.workspace import FileMatch, WorkspaceGrant, WorkspacePatch, WorkspaceView
from skillfleet.workspaces.desk import Desk, Kept
from skillfleet.workspaces.limits import Meter
from skillfleet.workspaces.names import check_collision, check_path
from skillfleet.workspaces.overlay import Overlay, digest_of, overlaid


class ViewState:
    """The state of a view, with the checks of every call."""

    def __init__(self, desk: Desk, kept: Kept, overlay: Overlay | None) -> None:
        self.desk = desk
        self.kept = kept
        self.grant = kept.grant
        self.overlay = overlay
        self.files = desk.storage.files
        self.meters = (desk.meter, Meter(kept.max_files, desk.access.max_total_size_bytes))
        for path, staged in ({} if overlay is None else overlay.changes).items():
            self.use(path, staged.size_bytes)

    async def check(self, path: str | None = None, operation: FileOperation = "read") -> None:
        """Raise `WorkspaceDenied` or `GrantInvalid` unless the grant holds now, and for the path.

        With a path, for an operation on it.
        """
        await self.desk.check_use(self.grant, self.kept.signed)
        if path is None:
            return
        check_path(path)
        if operation != "read" and self.grant.mode is WorkspaceMode.READ_ONLY:
            raise WorkspaceDenied(f"the grant {self.grant.grant_id} is read_only")
        if not self.covers(path, operation):
            what = "open" if operation == "read" else f"let {operation}"
            raise WorkspaceDenied(f"the grant {self.grant.grant_id} does not {what} {path!r}")

    def covers(self, path: str, operation: FileOperation = "read") -> bool:
        """Return whether the grant opens a path."""
        return self.kept.covers(self.desk.access, path, operation)

    def use(self, path: str, size: int) -> None:
        """Count the use of a file; raises `WorkspaceDenied` above a limit, without counting."""
        for meter in self.meters:
            meter.check(self.desk.workspace, path, size)
        for meter in self.meters:
            meter.use(self.desk.workspace, path, size)

    async def check_replaced(self, path: str) -> None:
        """Raise `WorkspaceDenied` for a file above the limits, of which an overlay keeps a copy."""
        info = None if self.overlay is None else await self.files.stat(path)
        if info is not None:
            for meter in self.meters:
                meter.check(self.desk.workspace, path, info.size_bytes)

    def check_kind(self, path: str) -> None:
        """Raise `WorkspaceDenied` for a file in place of a folder whose deletion is staged.

        Also for the reverse: until the deletion is committed, the store has the deleted file.
        """
        for other, staged in ({} if self.overlay is None else self.overlay.changes).items():
            nested = path.startswith(f"{other}/") or other.startswith(f"{path}/")
            if staged.content is None and nested:
                raise WorkspaceDenied(
                    f"the path {path!r} is refused: commit the deletion of {other!r} first"
                )

    async def sizes(self) -> dict[str, int]:
        """Return all files with their sizes, as the view sees them."""
        present = {info.path: info.size_bytes for info in await self.files.list()}
        return present if self.overlay is None else overlaid(present, self.overlay.changes)

    async def size(self, path: str) -> int | None:
        """Return a file's size as the view sees it; None where there is none."""
        staged = None if self.overlay is None else self.overlay.changes.get(path)
        if staged is not None:
            return None if staged.content is None else staged.size_bytes
        info = await self.files.stat(path)
        return None if info is None else info.size_bytes

    async def content(self, path: str) -> bytes | None:
        """Return a file's content as the view sees it; None where there is none."""
        if self.overlay is None:
            return await self.files.read(path)
        # Without the lock, a write at the same time would delete the content that it replaces.
        async with self.overlay.lock:
            staged = self.overlay.changes.get(path)
            if staged is None:
                return await self.files.read(path)
            return None if staged.content is None else await self.overlay.content(staged.content)

    async def patches(self) -> list[WorkspacePatch]:
        """Return the staged changes by path."""
        if self.overlay is None:
            return []
        async with self.overlay.lock:
            return await self.overlay.patches()

    async def change(self, path: str, data: bytes | None) -> None:
        """Write or delete a file, at once or staged."""
        if self.overlay is not None:
            async with self.overlay.lock:
                base = digest_of(await self.files.read(path))
                await self.overlay.stage(path, base, data)
        elif data is None:
            await self.files.delete(path)
        else:
            await self.files.write(path, data)


_states: Final[HiddenState[ViewState]] = HiddenState()


class GrantedView(WorkspaceView):
    """A view whose storage is not reachable through it."""

    def __init__(self, state: ViewState) -> None:
        _states.attach(self, state)

    @property
    def grant(self) -> WorkspaceGrant:
        """See `WorkspaceView.grant`."""
        return _states.of(self).grant

    async def list(self) -> builtins.list[FileMatch]:
        """See `WorkspaceView.list`."""
        state = _states.of(self)
        await state.check()
        sizes = await state.sizes()
        return [match_of(path, size) for path, size in sorted(sizes.items()) if state.covers(path)]

    async def read(self, path: str) -> bytes:
        """See `WorkspaceView.read`."""
        state = _states.of(self)
        await state.check(path)
        size = await state.size(path)
        if size is None:
            raise FileNotFoundError(f"the workspace has no file {path!r}")
        state.use(path, size)
        data = await state.content(path)
        if data is None:
            raise FileNotFoundError(f"the workspace has no file {path!r}")
        state.use(path, len(data))
        return data

    async def write(self, path: str, data: bytes) -> None:
        """See `WorkspaceView.write`."""
        state = _states.of(self)
        await state.check(path, "write")
        if not isinstance(data, bytes):
            raise WorkspaceDenied(f"{path!r}: write bytes, not {type(data).__name__}")
        state.check_kind(path)
        if await state.size(path) is None:
            check_collision(path, await state.sizes())
        await state.check_replaced(path)
        state.use(path, len(data))
        await state.change(path, data)

    async def delete(self, path: str) -> None:
        """See `WorkspaceView.delete`."""
        state = _states.of(self)
        await state.check(path, "delete")
        if await state.size(path) is None:
            raise FileNotFoundError(f"the workspace has no file {path!r}")
        await state.check_replaced(path)
        state.use(path, 0)
        await state.change(path, None)

    async def patches(self) -> builtins.list[WorkspacePatch]:
        """See `WorkspaceView.patches`."""
        state = _states.of(self)
        await state.check()
        return await state.patches()

    async def commit(self) -> builtins.list[str]:
        """See `WorkspaceView.commit`."""
        state = _states.of(self)
        await state.check()
        overlay = _staging(state)
        for path, staged in overlay.changes.items():
            # An earlier attempt may have staged it, with other limits.
            await state.check(path, "delete" if staged.content is None else "write")
        return await state.desk.commit(overlay)

    async def discard(self) -> None:
        """See `WorkspaceView.discard`."""
        state = _states.of(self)
        await state.check()
        await state.desk.discard(_staging(state))


def _staging(state: ViewState) -> Overlay:
    if state.overlay is None:
        raise WorkspaceDenied(f"a view in mode {state.grant.mode} has no staged changes")
    return state.overlay


def match_of(path: str, size: int, score: float = 0.0) -> FileMatch:
    """Return a file as searches and views show it."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return FileMatch(path, extension.lower() if dot and stem else "", score, size_bytes=size)
