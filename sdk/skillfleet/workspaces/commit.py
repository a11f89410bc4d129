"""Commits of overlays: all changes or none, also where the process dies in between.

A commit writes its plan first. Who next takes the right to write completes it; where a file was
changed from outside in the meantime, it restores the others instead. Every caller holds the
right to write, but for `recover_unheld`, which takes it.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict

from skillfleet.errors import WorkspaceBusy, WorkspaceConflict, WorkspaceDenied
from skillfleet.ports.workspace import WorkspaceStorage
from skillfleet.workspaces.names import TakenNames
from skillfleet.workspaces.overlay import Changes, Overlay, clear_overlay, digest_of

T = TypeVar("T")

_PLAN: Final = "commit.json"


class _Plan(BaseModel):
    model_config = ConfigDict(frozen=True)

    grant_id: str
    changes: Changes
    applied: bool = False
    """True once all changes are made: what other writers do from then on is no conflict."""
    undone: bool = False
    """True once the commit has failed: nothing may complete it any more."""


async def commit(storage: WorkspaceStorage, overlay: Overlay) -> list[str]:
    """Apply an overlay; raises `WorkspaceConflict` and changes nothing where files differ."""
    await recover(storage)
    plan = _Plan(grant_id=overlay.grant_id, changes=overlay.changes)
    await _refuse_conflicts(storage, plan.changes)
    for path, staged in plan.changes.items():
        if staged.base is not None:
            base = await storage.files.read(path)
            if base is None or await overlay.keep(base) != staged.base:
                raise _conflict([path])
    overlay.retain()
    await storage.state.write(_PLAN, plan.model_dump_json().encode())
    try:
        await _apply(storage, plan)
    except Exception:
        # On a disk that is full, neither may succeed: the next use of the workspace ends it.
        with contextlib.suppress(OSError):
            undone = plan.model_copy(update={"undone": True})
            await storage.state.write(_PLAN, undone.model_dump_json().encode())
        await _undo(storage, plan)
        await storage.state.delete(_PLAN)
        raise
    await _finish(storage, plan)
    overlay.forget()
    return sorted(plan.changes)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await a commit; a cancellation waits for its end."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def is_unfinished(storage: WorkspaceStorage) -> bool:
    """Return whether a commit has begun and not ended."""
    return await storage.state.stat(_PLAN) is not None


async def discard(storage: WorkspaceStorage, overlay: Overlay, holder: str) -> None:
    """Drop an overlay; one whose commit has not ended is needed until that is completed or undone.

    Raises `WorkspaceBusy` where another writer keeps it from being ended.
    """
    if await is_unfinished(storage):
        async with storage.writer(holder):
            await recover(storage)
    await overlay.clear()


async def recover_unheld(storage: WorkspaceStorage, holder: str) -> None:
    """End a commit that a dead process left, unless the right to write is taken."""
    if await is_unfinished(storage):
        with contextlib.suppress(WorkspaceBusy):
            async with storage.writer(holder):
                await recover(storage)


async def recover(storage: WorkspaceStorage) -> None:
    """End a commit whose process died: complete it, or undo it after a change from outside."""
    written = await storage.state.read(_PLAN)
    if written is None:
        return
    plan = _Plan.model_validate_json(written)
    if plan.undone or (not plan.applied and await _changed_outside(storage, plan)):
        await _undo(storage, plan)
        await storage.state.delete(_PLAN)
        return
    if not plan.applied:
        await _apply(storage, plan)
    await _finish(storage, plan)


async def _finish(storage: WorkspaceStorage, plan: _Plan) -> None:
    """Drop the overlay whose changes are made, and then the plan."""
    if not plan.applied:
        applied = plan.model_copy(update={"applied": True})
        await storage.state.write(_PLAN, applied.model_dump_json().encode())
    await clear_overlay(storage.state, plan.grant_id)
    await storage.state.delete(_PLAN)


async def _refuse_conflicts(storage: WorkspaceStorage, changes: Changes) -> None:
    present = {info.path for info in await storage.files.list()}
    wrong = [
        path for path, staged in changes.items() if await _digest(storage, path) != staged.base
    ]
    after = present - {path for path, staged in changes.items() if staged.content is None}
    after |= {path for path, staged in changes.items() if staged.content is not None}
    taken = TakenNames(after)
    for path, staged in changes.items():
        if staged.operation == "create":
            try:
                taken.check(path)
            except WorkspaceDenied:
                wrong.append(path)
    if wrong:
        raise _conflict(sorted(set(wrong)))


def _conflict(paths: Sequence[str]) -> WorkspaceConflict:
    return WorkspaceConflict(
        f"these files changed since they were staged: {', '.join(paths)};"
        " read them again, or discard the view",
        paths,
    )


async def _digest(storage: WorkspaceStorage, path: str) -> str | None:
    """Return the digest of a file; "" for what is there and no file."""
    try:
        return digest_of(await storage.files.read(path))
    except WorkspaceDenied:
        return ""


async def _changed_outside(storage: WorkspaceStorage, plan: _Plan) -> bool:
    for path, staged in plan.changes.items():
        if await _digest(storage, path) not in (staged.base, staged.content):
            return True
    return False


async def _apply(storage: WorkspaceStorage, plan: _Plan) -> None:
    overlay = Overlay(storage.state, plan.grant_id)
    for path in _deletions_first(plan.changes):
        content = plan.changes[path].content
        if await _digest(storage, path) == content:
            continue
        if content is None:
            await storage.files.delete(path)
        else:
            await storage.files.write(path, await overlay.content(content))


async def _undo(storage: WorkspaceStorage, plan: _Plan) -> None:
    # Raises where the whole folder is refused: its files would all look as if others changed them.
    await storage.files.list()
    overlay = Overlay(storage.state, plan.grant_id)
    for path in reversed(_deletions_first(plan.changes)):
        staged = plan.changes[path]
        if await _digest(storage, path) != staged.content:
            continue
        if staged.base is None:
            await storage.files.delete(path)
        else:
            await storage.files.write(path, await overlay.content(staged.base))


def _deletions_first(changes: Changes) -> Sequence[str]:
    """Return the paths in the order of their changes: a file may give way to a folder."""
    return sorted(changes, key=lambda path: (changes[path].content is not None, path))
