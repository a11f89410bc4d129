"""The overlay of a grant: staged changes with the digests of the files that they change."""

import asyncio
import hashlib
from collections.abc import Mapping
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


class _Manifest(BaseModel):
    """The staged changes, and the newest attempt that has used them."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    changes: Changes


def digest_of(data: bytes | None) -> str | None:
    """Return the digest of a file's content; None for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


class Overlay:
    """The staged changes of one grant, in the state store of its workspace.

    A change is durable when `stage` returns: the manifest is written after the content that it
    names. Once a later attempt of the run has used the overlay, an earlier one is refused. One
    event loop; `lock` makes a read with its write one operation.
    """

    def __init__(self, state: FileStore, grant_id: str, attempt: int = 1) -> None:
        self.grant_id = grant_id
        self._attempt = attempt
        self.changes: Changes = {}
        self.lock = asyncio.Lock()
        self._state = state
        self._folder = f"{OVERLAYS}{grant_id}"

    async def load(self) -> None:
        """Read what an earlier attempt has staged, and take it over."""
        found = await self.check_owner()
        if found is not None:
            self.changes = found.changes
            if found.attempt < self._attempt:
                await self._write(self.changes)

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
            await self._state.write(f"{self._folder}/{digest}", data)
        return digest

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
        await self._write(changes)
        self.changes = changes

    async def _write(self, changes: Changes) -> None:
        manifest = _Manifest(attempt=self._attempt, changes=changes)
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
        """Drop all changes, the manifest first."""
        await self.check_owner()
        self.changes = {}
        await clear_overlay(self._state, self.grant_id)


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
