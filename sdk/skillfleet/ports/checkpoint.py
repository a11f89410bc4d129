"""The port for checkpoints: stored snapshots of a folder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from skillfleet.ports.loading import Port
from skillfleet.ports.provider import Provider
from skillfleet.ports.scope import RunScope

ChangeKind = Literal["added", "changed", "removed"]


@dataclass(frozen=True)
class Checkpoint:
    """A stored snapshot of a folder."""

    id: str
    created_at: datetime
    message: str = ""
    position: int | None = None
    """The number of entries in the run's journal at that time; None when the caller gave none."""
    run_id: str | None = None
    """The run that made it; None when the caller gave none."""
    step: str | None = None
    """The identity of the journal entry of the step that made it; None outside of steps."""
    size_bytes: int | None = None
    """The size of all files; None where the adapter does not measure it."""
    parent: str | None = None
    """The id of the checkpoint that this one builds upon; it may have been deleted since."""
    skipped: Sequence[str] = ()
    """Paths that are not part of the checkpoint: sockets and devices."""


@dataclass(frozen=True)
class Change:
    """One path that differs between two states of a folder."""

    path: str
    kind: ChangeKind


class CheckpointClient(ABC):
    """Makes, lists and restores the checkpoints of folders.

    A folder is identified by its absolute path. A checkpoint keeps files, their modes and times,
    empty folders and symlinks. Files may change while `create` reads them; a checkpoint then has
    some state of each file between the call's start and its end.

    Concurrency: any number of calls at once, from any event loop and in several processes; blocking
    work is done in threads. Forbidden: following a symlink out of the folder. All methods raise
    `CheckpointError`, and `UnknownCheckpointError` for an id that the folder does not have.
    """

    @abstractmethod
    async def create(
        self,
        folder: Path,
        *,
        message: str = "",
        position: int | None = None,
        run_id: str | None = None,
        step: str | None = None,
    ) -> Checkpoint:
        """Store the folder's state; when it returns, the checkpoint is stored as a whole.

        Cancellation: at any point, without a checkpoint.
        """

    @abstractmethod
    async def list(self, folder: Path) -> Sequence[Checkpoint]:
        """Return the folder's checkpoints, the newest first."""

    @abstractmethod
    async def diff(
        self, folder: Path, checkpoint: str, other: str | None = None
    ) -> Sequence[Change]:
        """Return what changed from one checkpoint to another, or to the folder as it is, by path.

        Raises `CapabilityUnavailableError` where the adapter compares checkpoints only.
        """

    @abstractmethod
    async def restore(self, folder: Path, checkpoint: str, *, into: Path | None = None) -> None:
        """Replace the folder, or the folder `into`, by the checkpoint's state, as a whole.

        What the target contains that the checkpoint does not have is lost. On an error and on
        cancellation the target is as it was. Nothing outside of it is changed. A process whose
        current folder is inside the target stays in the replaced one.

        Raises `CapabilityUnavailableError` where the adapter cannot restore into another folder.
        """

    @abstractmethod
    async def delete(self, folder: Path, checkpoint: str) -> None:
        """Delete a checkpoint; all others stay complete."""


class CheckpointProvider(Provider[CheckpointClient]):
    """Makes the clients of checkpoints, for runs and for the command line."""

    @abstractmethod
    def client(self) -> CheckpointClient:
        """Return a client outside of a run."""

    def open(self, scope: RunScope) -> CheckpointClient:
        """Return the client of one attempt; by default one that does not depend on it."""
        del scope
        return self.client()


CHECKPOINT: Final[Port[CheckpointProvider]] = Port(
    "checkpoint", CheckpointProvider, "SKILLFLEET_CHECKPOINT"
)
