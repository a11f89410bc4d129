"""Snapshots of a folder that an agent works in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A stored snapshot; `created_at` is UTC. Pinned ones survive a cleanup."""

    id: str
    workspace: str
    message: str
    created_at: datetime
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class FileChange:
    """A path that differs between two snapshots."""

    kind: Literal["added", "removed", "modified", "renamed"]
    path: str


class CheckpointClient(ABC):
    """Takes, lists and restores snapshots; `workspace` is an absolute path.

    Concurrency: calls for different workspaces may run at once; those for one workspace are
    done one after another. Cancellation: a cancelled call either took effect whole or not at
    all. Every call ends in bounded time. Raises `LookupError` for an unknown workspace or
    snapshot, `CapabilityUnavailableError` when the service cannot be reached.
    """

    @abstractmethod
    async def checkpoint(
        self, workspace: str, *, id: str | None = None, message: str = ""
    ) -> Checkpoint | None:
        """Take a snapshot; None when there was nothing to store, which is no error."""

    @abstractmethod
    async def rollback(self, workspace: str, checkpoint_id: str) -> None:
        """Restore a snapshot; changes since the last one are lost."""

    @abstractmethod
    async def list(self, workspace: str) -> tuple[Checkpoint, ...]:
        """The workspace's snapshots, oldest first."""

    @abstractmethod
    async def diff(
        self, workspace: str, from_id: str, to_id: str | None = None
    ) -> tuple[FileChange, ...]:
        """What changed between two snapshots, or up to now when `to_id` is None."""

    @abstractmethod
    async def delete(self, workspace: str, checkpoint_id: str) -> None:
        """Delete a snapshot."""

    @abstractmethod
    async def cleanup(self, workspace: str, *, keep: int = 20) -> int:
        """Delete all but the newest `keep` snapshots that are not pinned; returns how many."""
