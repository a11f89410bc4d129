"""Limits of access: what a grant covers, how long, and how much an attempt uses."""

from collections.abc import Callable
from datetime import UTC, datetime

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.errors import WorkspaceDenied
from skillfleet.paths import matches, matches_in_any_case
from skillfleet.ports.workspace import WorkspaceGrant
from skillfleet.workspaces.names import check_path

Now = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


def is_denied(access: WorkspaceAccess, path: str) -> bool:
    """Return whether a deny pattern excludes a path."""
    return matches_in_any_case(path, access.deny_patterns)


def is_pattern(text: str) -> bool:
    """Return whether a text is a glob and not a path."""
    return "*" in text or "?" in text


def check_request(
    access: WorkspaceAccess, files: tuple[str, ...], mode: WorkspaceMode, reason: str
) -> None:
    """Raise `WorkspaceDenied` for a request that the skill's access does not allow."""
    check_enabled(access)
    if mode not in access.allowed_modes:
        raise WorkspaceDenied(f"this skill may not use the mode {mode}: see allowed_modes")
    if access.require_reason and not reason.strip():
        raise WorkspaceDenied("access to the workspace needs a reason: pass reason='...'")
    if not files:
        raise WorkspaceDenied("no files were asked for: pass paths or globs")
    for each in files:
        check_path(each)
        if is_denied(access, each):
            raise WorkspaceDenied(f"the path {each!r} is refused: it fits a deny pattern")
    named = sum(not is_pattern(each) for each in set(files))
    if named > access.max_files:
        raise WorkspaceDenied(f"{named} files exceed max_files={access.max_files}")


def check_enabled(access: WorkspaceAccess) -> None:
    """Raise `WorkspaceDenied` for access to nothing."""
    if not access.enabled:
        raise WorkspaceDenied(
            "this skill has no access to its workspace: declare"
            " @agent.skill(workspace=WorkspaceAccess.dynamic(...))"
        )


def check_use(access: WorkspaceAccess, grant: WorkspaceGrant, now: datetime) -> None:
    """Raise `WorkspaceDenied` once a grant has expired."""
    if is_expired(grant, now):
        raise WorkspaceDenied(f"the grant {grant.grant_id} has expired: request access again")
    if grant.mode not in access.allowed_modes:
        raise WorkspaceDenied(f"this skill may not use the mode {grant.mode}: see allowed_modes")


def is_expired(grant: WorkspaceGrant, now: datetime) -> bool:
    """Return whether a grant has expired."""
    return grant.expires_at is not None and now >= grant.expires_at


def covers(access: WorkspaceAccess, grant: WorkspaceGrant, path: str) -> bool:
    """Return whether a grant opens a path."""
    granted = any(path == each or matches(path, each) for each in grant.files)
    return granted and not is_denied(access, path)


class Meter:
    """The distinct files that were used, with their sizes, against two limits."""

    def __init__(self, max_files: int, max_bytes: int) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._sizes: dict[tuple[str, str], int] = {}

    def check(self, workspace: str, path: str, size: int) -> None:
        """Raise `WorkspaceDenied` where the use of a file would exceed a limit."""
        file = (workspace, path)
        count = len(self._sizes) + (file not in self._sizes)
        if count > self._max_files:
            raise WorkspaceDenied(f"{path!r} is one file more than max_files={self._max_files}")
        total = sum(self._sizes.values()) - self._sizes.get(file, 0) + size
        if total > self._max_bytes:
            raise WorkspaceDenied(
                f"{path!r} with {size} bytes exceeds max_total_size_bytes={self._max_bytes}"
            )

    def use(self, workspace: str, path: str, size: int) -> None:
        """Count a file that was checked."""
        self._sizes[workspace, path] = size
