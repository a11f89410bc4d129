"""Negotiated access to a caller's files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal


class WorkspaceMode(StrEnum):
    """What a view may do: read, stage changes as patches, or change files directly."""

    READ_ONLY = "read_only"
    READ_WRITE_OVERLAY = "read_write_overlay"
    READ_WRITE_DIRECT = "read_write_direct"


@dataclass(frozen=True, slots=True)
class FileMatch:
    """A file that a search found; `score` is higher for better matches."""

    path: str
    file_type: str
    score: float
    summary: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WorkspaceGrant:
    """Access that was given to `files` until `expires_at` (UTC)."""

    grant_id: str
    purpose: str
    files: tuple[str, ...]
    mode: WorkspaceMode
    reason: str
    expires_at: datetime
    requires_human_approval: bool = False


@dataclass(frozen=True, slots=True)
class WorkspacePatch:
    """A staged change; `content` is None for a deletion."""

    grant_id: str
    path: str
    operation: Literal["create", "update", "delete"]
    content: bytes | None = None


class WorkspaceView(ABC):
    """The files of one grant.

    Concurrency: any number of calls at once; writes to one path take effect in call order.
    Every method raises `PermissionError` for a path outside the grant, for a mode that does
    not allow it, and after the grant expired.
    """

    @abstractmethod
    async def read(self, path: str) -> bytes:
        """The file's content, staged changes included; raises `FileNotFoundError`."""

    @abstractmethod
    async def write(self, path: str, content: bytes) -> None:
        """Create or replace a file (staged in overlay mode)."""

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Delete a file (staged in overlay mode); raises `FileNotFoundError`."""

    @abstractmethod
    async def patches(self) -> tuple[WorkspacePatch, ...]:
        """The staged changes, in the order they were made."""


class WorkspaceClient(ABC):
    """Searches a workspace and asks for access to parts of it.

    Concurrency: any number of calls at once, from one event loop. Cancellation: a cancelled
    request for access grants nothing. Refusals raise `PermissionError` with the reason.
    Forbidden: contents of files that no grant covers, in results as in error messages.
    """

    @abstractmethod
    async def search(
        self, *, query: str, types: Sequence[str] = (), limit: int = 20
    ) -> tuple[FileMatch, ...]:
        """Files that fit `query`, best first, without their contents."""

    @abstractmethod
    async def request_access(
        self, *, files: Sequence[str], mode: WorkspaceMode, reason: str, purpose: str = ""
    ) -> WorkspaceGrant:
        """Ask for access to `files`; waits for a human where the policy asks for one."""

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
        """Search by `hints`, ask for access to what was found, and open it."""

    @abstractmethod
    async def list_grants(self) -> tuple[WorkspaceGrant, ...]:
        """The grants in force."""

    @abstractmethod
    async def install_grant(self, token: str) -> WorkspaceGrant:
        """Take over a grant that another agent handed over; checks signature and audience."""

    @abstractmethod
    async def delegate(
        self,
        *,
        audience: str,
        allow_patterns: Sequence[str] = ("**",),
        deny_patterns: Sequence[str] = (),
        mode: WorkspaceMode = WorkspaceMode.READ_ONLY,
        outputs_prefix: str | None = None,
        ttl_seconds: float = 300,
    ) -> str:
        """A token that hands the agent `audience` no more than this client's own access."""
