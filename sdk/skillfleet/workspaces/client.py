"""The client of an attempt: searches, and grants within the skill's access."""

from collections.abc import Sequence
from typing import Final

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.errors import WorkspaceDenied
from skillfleet.hidden_state import HiddenState
from skillfleet.paths import matches
from skillfleet.ports.grants import Delegation
from skillfleet.ports.workspace import (
    FileMatch,
    WorkspaceClient,
    WorkspaceGrant,
    WorkspaceStorage,
    WorkspaceView,
)
from skillfleet.workspaces.desk import Attempt, Desk, Kept, end_of
from skillfleet.workspaces.limits import (
    check_enabled,
    check_request,
    is_denied,
    is_pattern,
)
from skillfleet.workspaces.view import GrantedView, ViewState, match_of

_states: Final[HiddenState[Desk]] = HiddenState()


class StoredWorkspaceClient(WorkspaceClient):
    """A client over the storage of a workspace, which is not reachable through it."""

    def __init__(
        self, storage: WorkspaceStorage, access: WorkspaceAccess, attempt: Attempt
    ) -> None:
        _states.attach(self, Desk.of(storage, access, attempt))

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
        wanted, mode = _listed("files", files), _mode(mode)
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
        hints = _listed("hints", hints)
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
        kept = await _usable(desk, grant)
        found = kept.grant
        if kept.signed is not None:
            desk = desk.beside(kept.signed.workspace)
        if found.mode is WorkspaceMode.READ_WRITE_DIRECT:
            await desk.take_right()
        else:
            await desk.recover()
        staged = found.mode is WorkspaceMode.READ_WRITE_OVERLAY
        overlay = await desk.overlay(found.grant_id) if staged else None
        return GrantedView(ViewState(desk, kept, overlay))

    async def list_grants(self) -> list[WorkspaceGrant]:
        """See `WorkspaceClient.list_grants`."""
        desk = _states.of(self)
        check_enabled(desk.access)
        return await desk.grants()

    async def delegate(
        self,
        grant: WorkspaceGrant | str | None = None,
        *,
        audience: str,
        allow_patterns: Sequence[str] = ("**",),
        deny_patterns: Sequence[str] = (),
        mode: WorkspaceMode = WorkspaceMode.READ_ONLY,
        outputs_prefix: str | None = None,
        ttl_seconds: int = 300,
    ) -> str:
        """See `WorkspaceClient.delegate`."""
        desk = _states.of(self)
        check_enabled(desk.access)
        kept = await _usable(desk, await _only(desk) if grant is None else grant)
        exchange = desk.attempt.exchange
        held = kept.signed or exchange.grants.own(
            exchange.workspace, kept.grant.mode, allow=kept.grant.files
        )
        if kept.grant.expires_at is not None:
            rest = (kept.grant.expires_at - desk.attempt.now()).total_seconds()
            ttl_seconds = min(ttl_seconds, max(int(rest), 1))
        asked = Delegation(
            audience,
            _listed("allow_patterns", allow_patterns),
            (*desk.access.deny_patterns, *_listed("deny_patterns", deny_patterns)),
            _mode(mode),
            outputs_prefix,
            ttl_seconds,
        )
        return await exchange.grants.delegate(held, asked)

    async def install_grant(self, token: str | None = None) -> WorkspaceGrant:
        """See `WorkspaceClient.install_grant`."""
        desk = _states.of(self)
        check_enabled(desk.access)
        grants = desk.attempt.exchange.grants
        token = grants.handed_over if token is None else token
        if token is None:
            raise WorkspaceDenied("no grant was handed over: the caller passes ctx.call(grant=...)")
        signed = await grants.install(token)
        level = signed.levels[-1]
        outputs = () if level.outputs is None else (f"{level.outputs}/**",)
        grant = WorkspaceGrant(
            f"g-{signed.jti}",
            "",
            (*level.allow, *outputs),
            signed.mode,
            "the calling run hands it over",
            end_of(signed),
            desk.access.require_human_approval,
        )
        await desk.check_use(grant, signed)
        return await desk.granted(grant, desk.access.max_files, signed)


async def _usable(desk: Desk, grant: WorkspaceGrant | str) -> Kept:
    """Return a grant of the run that holds now; raises `WorkspaceDenied` and `GrantInvalid`."""
    kept = await desk.usable(grant if isinstance(grant, str) else grant.grant_id)
    await desk.check_use(kept.grant, kept.signed)
    return kept


async def _only(desk: Desk) -> WorkspaceGrant:
    """Return the run's only grant; raises `WorkspaceDenied` where it has none or several."""
    found = await desk.grants()
    if len(found) != 1:
        raise WorkspaceDenied(f"this run has {len(found)} grants: pass the one to delegate")
    return found[0]


def _listed(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts; raises `WorkspaceDenied` for a text, whose letters would be taken."""
    if isinstance(texts, str):
        raise WorkspaceDenied(f"{name} must be a list of strings: [{texts!r}]")
    return tuple(texts)


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
        else:
            found = candidates if names else await _found(desk, hint, types)
            # The name of a file such as `**` would be granted as the pattern that it is.
            paths = [each.path for each in found if not is_pattern(each.path)]
            files += [path for path in paths if not names or matches(path, hint)][:limit]
    return tuple(dict.fromkeys(files))[:limit]
