"""Checkpoints of folders, as a run makes and restores them."""

import builtins
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from skillfleet.durable.journal import JournalOwner, journal_of
from skillfleet.ports.checkpoint import Change, Checkpoint, CheckpointClient


class CheckpointContext(JournalOwner, Protocol):
    """The part of a run context that checkpoints use."""

    task_id: str

    def _busy(self) -> AbstractContextManager[None]: ...


class RunCheckpoints:
    """The checkpoints of folders on the worker's machine, with the run's position in its journal.

    A folder is a path of the worker: a skill names one that belongs to its run, and that no other
    run uses. The methods are those of `skillfleet.ports.checkpoint.CheckpointClient`, and raise
    what those raise. While one is under way, the run is not parked.
    """

    def __init__(self, context: CheckpointContext, client: CheckpointClient) -> None:
        self._context = context
        self._client = client

    async def create(self, folder: Path, *, message: str = "") -> Checkpoint:
        """Store the folder's state, with the id of this run and its position in its journal.

        At the end of a step that changes the folder, inside of its function: the position is then
        that of the step's own entry, so that folder and journal agree wherever the run is lost.
        Steps that change one folder run one after the other.
        """
        journal = journal_of(self._context)
        await journal.load()
        position = journal.recorded + (journal.positions.step is not None)
        with self._context._busy():  # noqa: SLF001 - for runtimes
            return await self._client.create(
                folder, message=message, position=position, run_id=self._context.task_id
            )

    async def fitting(self, folder: Path, *, run_id: str | None = None) -> Checkpoint | None:
        """Return the run's newest checkpoint that its journal covers; None without one.

        One that was made by a step that was not recorded does not fit: the step is executed again.
        `run_id` is another run whose checkpoints to take: the one that this run was forked from.
        """
        journal = journal_of(self._context)
        await journal.load()
        wanted = run_id or self._context.task_id
        for found in await self._client.list(folder):
            position = found.position
            if found.run_id == wanted and position is not None and position <= journal.recorded:
                return found
        return None

    async def list(self, folder: Path) -> Sequence[Checkpoint]:
        """Return all checkpoints of the folder, the newest first."""
        return await self._client.list(folder)

    async def diff(
        self, folder: Path, checkpoint: str, other: str | None = None
    ) -> builtins.list[Change]:
        """Return what changed from one checkpoint to another, or to the folder as it is."""
        return [*await self._client.diff(folder, checkpoint, other)]

    async def restore(self, folder: Path, checkpoint: str, *, into: Path | None = None) -> None:
        """Replace the folder, or the folder `into`, by the checkpoint's state, as a whole."""
        with self._context._busy():  # noqa: SLF001 - for runtimes
            await self._client.restore(folder, checkpoint, into=into)

    async def delete(self, folder: Path, checkpoint: str) -> None:
        """Delete a checkpoint; all others stay complete."""
        with self._context._busy():  # noqa: SLF001 - for runtimes
            await self._client.delete(folder, checkpoint)
