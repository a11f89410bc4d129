"""The port for workspaces: the files of a session or of a tree of runs."""

import builtins
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from skillfleet.contracts.workspace import WorkspaceAccess, WorkspaceMode
from skillfleet.ports.loading import Port
from skillfleet.ports.provider import Provider
from skillfleet.ports.scope import RunScope

__all__ = [
    "WORKSPACE",
    "FileContent",
    "FileInfo",
    "FileMatch",
    "FileStore",
    "WorkspaceAccess",
    "WorkspaceClient",
    "WorkspaceGrant",
    "WorkspaceMode",
    "WorkspacePatch",
    "WorkspaceProvider",
    "WorkspaceStorage",
    "WorkspaceView",
    "session_workspace_id",
    "workspace_id",
]


@dataclass(frozen=True, slots=True)
class FileMatch:
    """A file that a search found. `file_type` is its extension in lower case, without the dot."""

    path: str
    file_type: str = ""
    score: float = 0.0
    summary: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkspaceGrant:
    """Access to some files: `files` are paths or globs, `expires_at` is UTC, None is no expiry."""

    grant_id: str
    purpose: str
    files: tuple[str, ...]
    mode: WorkspaceMode
    reason: str = ""
    expires_at: datetime | None = None
    requires_human_approval: bool = False


@dataclass(frozen=True, slots=True)
class WorkspacePatch:
    """A staged change of one file; `content` is None for a deletion."""

    grant_id: str
    path: str
    operation: Literal["create", "update", "delete"]
    content: bytes | None = None


class WorkspaceView(ABC):
    """Files of a workspace that a grant opens.

    Paths are relative, in Unicode's NFC, with `/`. Every call raises `WorkspaceDenied` once the
    grant has expired, for a path outside of it, and above the limits of the skill's access.

    Concurrency: one event loop; calls may overlap, writes are applied one at a time.
    """

    @property
    @abstractmethod
    def grant(self) -> WorkspaceGrant:
        """The grant that the view is opened with."""

    @abstractmethod
    async def list(self) -> builtins.list[FileMatch]:
        """Return the files of the view by path, with what it has staged."""

    @abstractmethod
    async def read(self, path: str) -> bytes:
        """Return the content of a file; raises `FileNotFoundError` where there is none."""

    @abstractmethod
    async def write(self, path: str, data: bytes) -> None:
        """Replace or create a file as a whole: at once, or staged in an overlay."""

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Delete a file, at once or staged; raises `FileNotFoundError` where there is none."""

    @abstractmethod
    async def patches(self) -> builtins.list[WorkspacePatch]:
        """Return the staged changes by path; none in a mode without overlay."""

    @abstractmethod
    async def commit(self) -> builtins.list[str]:
        """Apply all staged changes or none; returns the changed paths.

        Raises `WorkspaceConflict` where a file is no longer as it was when it was staged, and
        `WorkspaceBusy` while another attempt writes.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Drop all staged changes."""


class WorkspaceClient(ABC):
    """Negotiates access to the files of a run's workspace.

    Every method raises `WorkspaceDenied` for what the skill's `WorkspaceAccess` does not allow.

    Concurrency: one event loop; calls may overlap. Cancellation: at any point; a commit that has
    begun ends first. Forbidden: access that no grant of this run opens.
    """

    @abstractmethod
    async def search(
        self, *, query: str, types: Sequence[str] = (), limit: int = 20
    ) -> list[FileMatch]:
        """Return files whose path contains words of `query`, the best first.

        An empty query finds all. `types` are extensions without a dot.
        """

    @abstractmethod
    async def request_access(
        self, *, files: Sequence[str], mode: WorkspaceMode, reason: str, purpose: str = ""
    ) -> WorkspaceGrant:
        """Return a grant for paths or globs.

        Where a person has to approve, this is a question of kind `grant`: raises `WaitRejected`
        or `WaitTimedOut`, and `WorkspaceDenied` for the answer False. A later attempt that asks
        for the same gets the same grant, with its overlay.
        """

    @abstractmethod
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
        """Request access to what the hints name, and open it.

        A hint is a path or glob, or a word that is searched for; without hints, all files of
        `file_types`. In a mode that writes, hints with a `.`, `/` or `*` are granted as they are,
        so that the view can create files.
        """

    @abstractmethod
    async def view(self, grant: WorkspaceGrant | str) -> WorkspaceView:
        """Open a grant of this run, by itself or its id; raises `WorkspaceBusy`."""

    @abstractmethod
    async def list_grants(self) -> list[WorkspaceGrant]:
        """Return the grants of this run that hold: not expired, not revoked."""

    @abstractmethod
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
        """Return a token that hands a part of a grant over, for `ctx.call(..., grant=token)`.

        `grant` is one of this run, by default its only one. `audience` is the name of the agent
        that is called, or the id of a run. The access is never wider than the grant: its paths
        must match both, and its end is no later. With `outputs_prefix`, a folder, the patterns
        are for reading only, and files in the folder may be changed.

        Raises `GrantInvalid` for a wider mode, invalid patterns, a chain of more than eight
        delegations, and where the fleet has no key to sign with.
        """

    @abstractmethod
    async def install_grant(self, token: str | None = None) -> WorkspaceGrant:
        """Return a grant for the access that another run has handed over; `view` opens it.

        `token` is by default what the caller passed as `ctx.call(grant=)`. The skill's own
        `WorkspaceAccess` holds as well. From now on no other run may install it.

        Raises `GrantInvalid` for a token that is not for this run, has expired or is revoked; so
        do all calls on its views, once it has expired or is revoked.
        """


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of a store."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file in pieces, as it was when the file was opened."""

    size_bytes: int
    pieces: AsyncIterator[bytes]


class FileStore(ABC):
    """Regular files by path, for the rules in `skillfleet.workspaces`.

    A store is safe by itself: it raises `WorkspaceDenied` for a path that
    `skillfleet.workspaces.names.check_path` refuses, one that leads through a link, one that is
    no regular file, and a new one that differs from another by case or Unicode form only.
    """

    @abstractmethod
    async def list(self) -> list[FileInfo]:
        """Return all files by path, without links, devices and names that are refused."""

    @abstractmethod
    async def stat(self, path: str) -> FileInfo | None:
        """Return the file's size; None where there is none."""

    @abstractmethod
    async def read(self, path: str) -> bytes | None:
        """Return the file's content; None where there is none."""

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[FileContent | None]:
        """Open the file to read it in pieces; None where there is none.

        A store whose files may be large overrides this: here the file is read as a whole.
        """
        data = await self.read(path)
        yield None if data is None else FileContent(len(data), _in_one_piece(data))

    @abstractmethod
    async def write(self, path: str, data: bytes) -> None:
        """Replace the file as a whole; it is durable when the call returns."""

    @abstractmethod
    async def delete(self, path: str) -> bool:
        """Delete the file, durably; returns whether there was one."""


async def _in_one_piece(data: bytes) -> AsyncIterator[bytes]:
    yield data


class WorkspaceStorage(ABC):
    """The storage of one workspace."""

    @property
    @abstractmethod
    def files(self) -> FileStore:
        """The files that people and skills see."""

    @property
    @abstractmethod
    def state(self) -> FileStore:
        """Grants, overlays and the journal of commits, beside the files."""

    @abstractmethod
    def writer(self, holder: str) -> AbstractAsyncContextManager[None]:
        """Return a context manager that holds the workspace's one right to write.

        Entering raises `WorkspaceBusy`, which names the holder, while another has it. The right
        ends with its process, however that dies.
        """


class WorkspaceProvider(Provider[WorkspaceStorage]):
    """Opens the storage of workspaces by id: for attempts, and for producers."""

    @abstractmethod
    def storage(self, identifier: str) -> WorkspaceStorage:
        """Return the storage of a workspace; opens nothing yet."""

    def open(self, scope: RunScope, identifier: str | None = None) -> WorkspaceStorage:
        """Return the storage for an attempt of a workspace that was granted to its run.

        By default, of the run's own. Called once for each workspace that the attempt uses.
        """
        return self.storage(workspace_id(scope) if identifier is None else identifier)


def workspace_id(scope: RunScope) -> str:
    """Return the id of a run's workspace: that of its session, or of its tree of runs."""
    session = scope.session_id
    return f"run:{scope.root_id}" if session is None else session_workspace_id(session)


def session_workspace_id(session: str) -> str:
    """Return the id of a session's workspace; `session` is its name, as `RunScope.session_id`."""
    return f"session:{session}"


WORKSPACE: Final[Port[WorkspaceProvider]] = Port(
    "workspace", WorkspaceProvider, "SKILLFLEET_WORKSPACE"
)
