"""The client of an attempt: searches, and grants within the skill's access."""

from collections.abc import Sequence
from typing import Final

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.errors import WorkspaceDenied
from skillfleet.hidden_state import HiddenState
from skillfleet.paths import matches
from skillfleet.ports.workspace import (
    FileMatch,
    WorkspaceClient,
    WorkspaceGrant,
    WorkspaceStorage,
    WorkspaceView,
)
from skillfleet.workspaces.desk import Attempt, Desk
from skillfleet.workspaces.limits import check_enabled, check_request, check_use, is_denied
from skillfleet.workspaces.view import GrantedView, ViewState, match_of

_states: Final[HiddenState[Desk]] = HiddenState()


class StoredWorkspaceClient(WorkspaceClient):
    """A client over the storage of a workspace, which is not reachable through it."""

    def __init__(
        self, storage: WorkspaceStorage, access: WorkspaceAccess, attempt: Attempt
    ) -> None:
        _states.attach(self, Desk(storage, access, attempt))

    async def search(
        self, *, query: str, types: Sequence[str] = (), limit: int = 20
    ) -> list[FileMatch]:
        """See `WorkspaceClient.search`."""
        desk = _states.of(self)
        check_enabled(desk.access)
        await desk.recover()
        return (await _found(desk, query, types))[: max(limit, 0)]

    async def request_access(
        self, *, files: Sequence[str], mode: WorkspaceMode, reason: str, purpose: str = ""
    ) -> WorkspaceGrant:
        """See `WorkspaceClient.request_access`."""
        desk = _states.of(self)
        if isinstance(files, str):
            raise WorkspaceDenied(f"files must be a list of strings: [{files!r}]")
        wanted, mode = tuple(files), _mode(mode)
        check_request(desk.access, wanted, mode, reason)
        grant_id = desk.next_id(["request", wanted, mode, purpose, reason])
        asked = desk.access.require_human_approval
        grant = WorkspaceGrant(grant_id, purpose, wanted, mode, reason, None, asked)
        return await desk.granted(grant, desk.access.max_files)

    async def open_view(
        self,
        *,
        purpose: str,
        hints: Sequence[str] = (),
        file_types: Sequence[str] = (),
        max_files: int = 10,
        mode: WorkspaceMode = WorkspaceMode.READ_ONLY,
        reason: str = "",
    ) -> WorkspaceView:
        """See `WorkspaceClient.open_view`."""
        desk = _states.of(self)
        if isinstance(hints, str):
            raise WorkspaceDenied(f"hints must be a list of strings: [{hints!r}]")
        mode, limit = _mode(mode), min(max_files, desk.access.max_files)
        check_request(desk.access, ("**",), mode, reason)
        grant_id = desk.next_id(["view", hints, file_types, limit, mode, purpose, reason])
        kept = await desk.kept(grant_id)
        if kept is None:
            files = await _hinted(desk, hints, file_types, limit, mode)
            check_request(desk.access, files, mode, reason)
        else:
            files = kept.grant.files
        asked = desk.access.require_human_approval
        grant = WorkspaceGrant(grant_id, purpose, files, mode, reason, None, asked)
        return await self.view(await desk.granted(grant, limit))

    async def view(self, grant: WorkspaceGrant | str) -> WorkspaceView:
        """See `WorkspaceClient.view`."""
        desk = _states.of(self)
        check_enabled(desk.access)
        found, max_files = await desk.usable(grant if isinstance(grant, str) else grant.grant_id)
        check_use(desk.access, found, desk.attempt.now())
        if found.mode is WorkspaceMode.READ_WRITE_DIRECT:
            await desk.take_right()
        else:
            await desk.recover()
        staged = found.mode is WorkspaceMode.READ_WRITE_OVERLAY
        overlay = await desk.overlay(found.grant_id) if staged else None
        return GrantedView(ViewState(desk, found, max_files, overlay))

    async def list_grants(self) -> list[WorkspaceGrant]:
        """See `WorkspaceClient.list_grants`."""
        desk = _states.of(self)
        check_enabled(desk.access)
        return await desk.grants()


def _mode(mode: WorkspaceMode) -> WorkspaceMode:
    try:
        return WorkspaceMode(mode)
    except ValueError:
        known = ", ".join(WorkspaceMode)
        raise WorkspaceDenied(f"there is no mode {mode!r}; known are: {known}") from None


async def _found(desk: Desk, query: str, types: Sequence[str]) -> list[FileMatch]:
    """Return the files that contain words of the query, the best first."""
    words = query.casefold().split()
    wanted = {each.casefold().lstrip(".") for each in types}
    found = []
    for info in await desk.storage.files.list():
        hits = sum(word in info.path.casefold() for word in words)
        match = match_of(info.path, info.size_bytes, hits / len(words) if words else 0.0)
        fits = (hits or not words) and (not wanted or match.file_type in wanted)
        if fits and not is_denied(desk.access, info.path):
            found.append(match)
    return sorted(found, key=lambda match: (-match.score, match.path))


async def _hinted(
    desk: Desk, hints: Sequence[str], types: Sequence[str], limit: int, mode: WorkspaceMode
) -> tuple[str, ...]:
    """Return the paths that the hints find, and in modes that write the paths they name."""
    candidates = await _found(desk, "", types)
    files: list[str] = []
    for hint in hints or ("**",):
        names = any(mark in hint for mark in "./*?")
        if names and mode is not WorkspaceMode.READ_ONLY:
            files.append(hint)
        elif names:
            files += [each.path for each in candidates if matches(each.path, hint)][:limit]
        else:
            files += [each.path for each in await _found(desk, hint, types)][:limit]
    return tuple(dict.fromkeys(files))[:limit]
