"""The overlay of a grant: staged changes with the digests of the files that they change."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.workspace import FileStore, WorkspacePatch

OVERLAYS: Final = "overlays/"


class Staged(BaseModel):
    """A staged change: digests of the file below it and of its new content; None is no file."""

    model_config = ConfigDict(frozen=True)

    base: str | None
    content: str | None
    size_bytes: int = 0

    @property
    def operation(self) -> Literal["create", "update", "delete"]:
        """The change, as a patch names it."""
        if self.content is None:
            return "delete"
        return "create" if self.base is None else "update"


Changes = dict[str, Staged]
"""Staged changes by path."""


Undo = dict[str, dict[str, Staged | None]]
"""What each step has changed, as it was before; None: not staged. In the order of their start."""


@dataclass(frozen=True)
class RunSteps:
    """The steps of a run, as its journal has them."""

    current: Callable[[], str | None]
    """Returns the identity of the step that executes here; None outside of steps."""
    recorded: Callable[[Collection[str]], Awaitable[set[str]]]
    """Returns which of these steps are recorded."""


async def _none(steps: Collection[str]) -> set[str]:
    del steps
    return set()


NO_STEPS: Final = RunSteps(lambda: None, _none)


class _Manifest(BaseModel):
    """The staged changes, and the newest attempt that has used them."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    changes: Changes
    undo: Undo = {}
    """How to undo steps that are not recorded."""


def digest_of(data: bytes | None) -> str | None:
    """Return the digest of a file's content; None for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def _named(changes: Changes, undo: Undo) -> set[str | None]:
    """Return the contents that the changes need, and their undoing."""
    before = (staged for step in undo.values() for staged in step.values() if staged is not None)
    return {staged.content for staged in (*changes.values(), *before)}


class Overlay:
    """The staged changes of one grant, in the state store of its workspace.

    A change is durable when `stage` returns: the manifest is written after the content that it
    names. What a step has staged is undone by the next attempt unless the step is recorded: it is
    executed again. Once a later attempt of the run has used the overlay, an earlier one is refused.
    A content that was replaced goes: changes of a file take no more space than the last of them.
    One event loop; `lock` makes a read with its write one operation.
    """

    def __init__(
        self, state: FileStore, grant_id: str, attempt: int = 1, steps: RunSteps = NO_STEPS
    ) -> None:
        self.grant_id = grant_id
        self._attempt = attempt
        self._steps = steps
        self._undo: Undo = {}
        self.changes: Changes = {}
        self.lock = asyncio.Lock()
        self._state = state
        self._folder = f"{OVERLAYS}{grant_id}"
        self._written: set[str] = set()
        """The contents that this object wrote, which only it may delete."""

    async def load(self) -> None:
        """Read what earlier attempts have staged, but for their lost steps, and take it over."""
        found = await self.check_owner()
        if found is not None and found.attempt < self._attempt:
            # The earlier attempt may be about to replace a content. It looks for this note after
            # its manifest: either it finds the note, or that manifest is the one read here.
            await self._state.write(f"{self._folder}/owner", b"%d" % self._attempt)
            found = await self.check_owner()
        if found is None:
            return
        lost = await self._unrecorded(found.undo)
        changes = dict(found.changes)
        for before in reversed(lost.values()):
            for path, staged in before.items():
                changes.pop(path, None)
                if staged is not None:
                    changes[path] = staged
        if found.undo or found.attempt < self._attempt:
            await self._write(changes, {})
        self.changes = changes

    async def check_owner(self) -> _Manifest | None:
        """Raise `WorkspaceDenied` once a later attempt uses the overlay; returns the manifest."""
        written = await self._state.read(f"{self._folder}/manifest.json")
        found = None if written is None else _Manifest.model_validate_json(written)
        if found is not None and found.attempt > self._attempt:
            raise WorkspaceDenied(f"attempt {found.attempt} of the run has taken over the overlay")
        return found

    async def content(self, digest: str) -> bytes:
        """Return a content that the overlay keeps."""
        data = await self._state.read(f"{self._folder}/{digest}")
        if digest_of(data) != digest or data is None:
            raise OSError(f"the overlay of {self.grant_id} has lost a staged file")
        return data

    async def keep(self, data: bytes) -> str:
        """Keep a content; returns its digest."""
        digest = str(digest_of(data))
        if await self._state.stat(f"{self._folder}/{digest}") is None:
            self._written.add(digest)
            await self._state.write(f"{self._folder}/{digest}", data)
        return digest

    def retain(self) -> None:
        """Keep what was written until the overlay is cleared: the plan of a commit names it."""
        self._written.clear()

    async def stage(self, path: str, base: str | None, data: bytes | None) -> None:
        """Stage a file's new content, or its deletion; `base` is the digest of the file below."""
        known = self.changes.get(path)
        base = base if known is None else known.base
        content = None if data is None else await self.keep(data)
        changes = {
            **self.changes,
            path: Staged(base=base, content=content, size_bytes=len(data or b"")),
        }
        if content == base:
            del changes[path]
        await self.check_owner()
        await self._change(changes, [path])

    async def _change(self, changes: Changes, paths: Collection[str]) -> None:
        """Write changes of these paths, with how to undo them if a step makes them."""
        undo, step = await self._unrecorded(self._undo), self._steps.current()
        if step is not None:
            before = {path: self.changes.get(path) for path in paths}
            undo[step] = before | undo.get(step, {})
        await self._write(changes, undo)
        self.changes, self._undo = changes, undo
        await self._delete_replaced()

    async def _delete_replaced(self) -> None:
        """Delete written contents that no change names, unless a later attempt may need them."""
        replaced = self._written - _named(self.changes, self._undo)
        if not replaced:
            return
        owner = await self._state.read(f"{self._folder}/owner")
        if owner is None or int(owner) <= self._attempt:
            for digest in replaced:
                await self._state.delete(f"{self._folder}/{digest}")
                self._written.discard(digest)

    async def _unrecorded(self, undo: Undo) -> Undo:
        recorded = await self._steps.recorded(undo) if undo else set()
        return {step: before for step, before in undo.items() if step not in recorded}

    async def _write(self, changes: Changes, undo: Undo) -> None:
        manifest = _Manifest(attempt=self._attempt, changes=changes, undo=undo)
        await self._state.write(
            f"{self._folder}/manifest.json", manifest.model_dump_json().encode()
        )

    async def patches(self) -> list[WorkspacePatch]:
        """Return the staged changes by path."""
        return [
            WorkspacePatch(
                self.grant_id,
                path,
                staged.operation,
                None if staged.content is None else await self.content(staged.content),
            )
            for path, staged in sorted(self.changes.items())
        ]

    async def clear(self) -> None:
        """Drop all changes. What a step drops is kept apart until the run ends, to undo it."""
        await self.check_owner()
        if self._steps.current() is not None:
            await self._change({}, self.changes)
            return
        self.forget()
        await clear_overlay(self._state, self.grant_id)

    def forget(self) -> None:
        """Take note that the stored changes are deleted."""
        self.changes, self._undo = {}, {}
        self._written.clear()


async def clear_overlay(state: FileStore, grant_id: str) -> None:
    """Delete the overlay of a grant, the manifest first: a rest is no change."""
    folder = f"{OVERLAYS}{grant_id}/"
    await state.delete(f"{folder}manifest.json")
    for info in await state.list():
        if info.path.startswith(folder):
            await state.delete(info.path)


def overlaid(files: Mapping[str, int], changes: Changes) -> dict[str, int]:
    """Return sizes by path as a view with these changes shows them."""
    shown = dict(files)
    for path, staged in changes.items():
        if staged.content is None:
            shown.pop(path, None)
        else:
            shown[path] = staged.size_bytes
    return shown
