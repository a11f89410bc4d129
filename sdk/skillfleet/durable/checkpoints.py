"""Checkpoints of folders, as a run makes and restores them."""

import asyncio
import builtins
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from skillfleet.contracts import EntryKind
from skillfleet.durable import identity as identities
from skillfleet.durable.journal import journal_of
from skillfleet.durable.waits import Question, WaitContext, ask
from skillfleet.errors import CheckpointConflict
from skillfleet.ports.checkpoint import Change, Checkpoint, CheckpointClient

_MOST_NAMED: Final = 5
_DIGEST_CHARS: Final = 16


class CheckpointContext(WaitContext, Protocol):
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

        At the end of a step that changes the folder, inside of its function: the checkpoint fits
        once the step's entry is recorded, so that folder and journal agree wherever the run is
        lost. Steps that change one folder run one after the other.
        """
        journal = journal_of(self._context)
        await journal.load()
        step = journal.positions.step
        with self._context._busy():  # noqa: SLF001 - for runtimes
            return await self._client.create(
                folder,
                message=message,
                position=journal.recorded + (step is not None),
                run_id=self._context.task_id,
                step=step,
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
            if found.run_id != wanted or found.position is None:
                continue
            if found.step is None:
                fits = found.position <= journal.recorded
            else:
                fits = journal.has_entry(found.step)
            if fits:
                return found
        return None

    async def resume(self, folder: Path, *, owned: bool = False) -> Checkpoint | None:
        """Restore the checkpoint that `fitting` returns, where the folder differs; return it.

        A folder that is `owned` belongs to the run alone: what it contains beyond the checkpoint is
        lost. For any other one a difference is a conflict: a person is asked (`RunContext.ask`)
        whether to replace the folder, and asked anew if it has changed meanwhile. The answer False
        raises `CheckpointConflict`, and leaves the folder as it is.
        """
        found = await self.fitting(folder)
        if found is None:
            return None
        key = f"resume/{hashlib.sha256(bytes(folder)).hexdigest()[:_DIGEST_CHARS]}"
        # An earlier attempt may have found a difference where there is none now.
        journal_of(self._context).pass_over(f"{identities.keyed(EntryKind.ASK, key)}#")
        approved = ""
        while await asyncio.to_thread(folder.exists):
            changes = await self._client.diff(folder, found.id)
            if not changes:
                return found
            question = await asyncio.to_thread(_question, folder, found, changes)
            if owned or question == approved:
                break
            if not await ask(self._context, Question(question, schema=bool, key=key)):
                raise CheckpointConflict(f"{folder} differs from checkpoint {found.id} and is kept")
            approved = question
        await self.restore(folder, found.id)
        return found

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


def _question(folder: Path, checkpoint: Checkpoint, changes: Sequence[Change]) -> str:
    """Return the question whether to replace a folder; another one for another state of it."""
    state = hashlib.sha256()
    for change in changes:
        try:
            status = (folder / change.path).lstat()
        except OSError:
            seen: tuple[int, ...] = ()
        else:
            seen = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
        state.update(repr((change.path, change.kind, seen)).encode())
    named = ", ".join(f"{change.path} ({change.kind})" for change in changes[:_MOST_NAMED])
    rest = len(changes) - _MOST_NAMED
    return (
        f"The folder {folder} is not as this run left it: {named}"
        f"{f' and {rest} more' if rest > 0 else ''}. Replace it by the checkpoint of"
        f" {checkpoint.created_at:%Y-%m-%d %H:%M:%S} UTC, so that the run can continue?"
        f" (state {state.hexdigest()[:_DIGEST_CHARS]})"
    )
