"""The desk of an attempt: its access, its grants, and its right to write to the workspace."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from skillfleet.contracts import WorkspaceAccess
from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.workspace import WorkspaceGrant, WorkspaceStorage
from skillfleet.workspaces.commit import commit, recover, recover_unheld, uninterrupted
from skillfleet.workspaces.limits import Meter, Now, is_expired, utc_now
from skillfleet.workspaces.overlay import Overlay

Approve = Callable[[str], Awaitable[bool]]
"""Asks a person a question that is answered True or False."""


@dataclass(frozen=True)
class Attempt:
    """The attempt that uses a workspace: what its grants are kept by, and how it ends."""

    run_id: str
    number: int
    approve: Approve
    defer: Callable[[Callable[[], Awaitable[object]]], None]
    check_lease: Callable[[], Awaitable[None]]
    """Raises unless the attempt may still write; see `RunScope.check_lease`."""
    now: Now = utc_now


@dataclass(frozen=True)
class _Kept:
    """A grant as the state keeps it."""

    grant: WorkspaceGrant
    approved: bool
    max_files: int


_KEPT: Final = TypeAdapter(_Kept)


@dataclass
class Desk:
    """The shared state of an attempt's client and views."""

    storage: WorkspaceStorage
    access: WorkspaceAccess
    attempt: Attempt
    meter: Meter = field(init=False)
    _requests: Counter[str] = field(default_factory=Counter)
    _overlays: dict[str, Overlay] = field(default_factory=dict)
    _right: AsyncExitStack | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.meter = Meter(self.access.max_files, self.access.max_total_size_bytes)

    def next_id(self, request: Sequence[Any]) -> str:
        """Return the id of the grant for a request, the same one in every attempt."""
        digest = hashlib.sha256(orjson.dumps([self.attempt.run_id, *request])).hexdigest()
        self._requests[digest] += 1
        numbered = f"{digest}#{self._requests[digest]}"
        return f"g-{hashlib.sha256(numbered.encode()).hexdigest()[:24]}"

    async def granted(self, wanted: WorkspaceGrant, max_files: int) -> WorkspaceGrant:
        """Return the grant of that id: the kept one, or the wanted one once it is approved."""
        now = self.attempt.now()
        kept = await self.kept(wanted.grant_id)
        if kept is None or (is_expired(kept.grant, now) and not kept.grant.requires_human_approval):
            files = wanted.files if kept is None else kept.grant.files
            grant = replace(wanted, files=files, expires_at=self._expiry(now))
            kept = _Kept(grant, not grant.requires_human_approval, max_files)
            await self._keep(kept)
        if not kept.grant.requires_human_approval:
            return kept.grant
        if not await self.attempt.approve(_question(kept.grant)):
            raise WorkspaceDenied("a person refused the access")
        if not kept.approved:
            grant = replace(kept.grant, expires_at=self._expiry(self.attempt.now()))
            kept = _Kept(grant, approved=True, max_files=kept.max_files)
            await self._keep(kept)
        return kept.grant

    async def usable(self, grant_id: str) -> tuple[WorkspaceGrant, int]:
        """Return a grant of this run and its limit of files; raises `WorkspaceDenied`."""
        kept = await self.kept(grant_id)
        if kept is None or not kept.approved:
            raise WorkspaceDenied(f"this run has no grant {grant_id!r}")
        return kept.grant, kept.max_files

    async def kept(self, grant_id: str) -> _Kept | None:
        """Return what the state has of a grant."""
        if not grant_id.startswith("g-") or not grant_id[2:].isalnum():
            return None
        written = await self.storage.state.read(f"{self._folder}{grant_id}.json")
        return None if written is None else _KEPT.validate_json(written)

    async def grants(self) -> list[WorkspaceGrant]:
        """Return the run's approved grants that have not expired, by id."""
        now = self.attempt.now()
        found = []
        for info in await self.storage.state.list():
            if info.path.startswith(self._folder):
                written = await self.storage.state.read(info.path)
                kept = None if written is None else _KEPT.validate_json(written)
                if kept is not None and kept.approved and not is_expired(kept.grant, now):
                    found.append(kept.grant)
        return found

    async def overlay(self, grant_id: str) -> Overlay:
        """Return a grant's overlay, with what an earlier attempt has staged."""
        async with self._lock:
            if grant_id not in self._overlays:
                overlay = Overlay(self.storage.state, grant_id, self.attempt.number)
                await overlay.load()
                self._overlays[grant_id] = overlay
            return self._overlays[grant_id]

    async def recover(self) -> None:
        """End a commit that a dead process left, unless another one is at it."""
        await recover_unheld(self.storage, self._holder)

    async def take_right(self) -> None:
        """Hold the right to write until the attempt ends; raises `WorkspaceBusy`."""
        async with self._lock:
            if self._right is not None:
                return
            right = AsyncExitStack()
            await right.enter_async_context(self.storage.writer(self._holder))
            self._right = right
            self.attempt.defer(self._end)
        await self.attempt.check_lease()
        await recover(self.storage)

    async def commit(self, overlay: Overlay) -> list[str]:
        """Apply an overlay; a cancellation waits for its end."""
        return await uninterrupted(self._commit(overlay))

    async def _commit(self, overlay: Overlay) -> list[str]:
        async with overlay.lock, AsyncExitStack() as stack:
            if self._right is None:
                await stack.enter_async_context(self.storage.writer(self._holder))
            await overlay.check_owner()
            await self.attempt.check_lease()
            return await commit(self.storage, overlay)

    async def _end(self) -> None:
        right, self._right = self._right, None
        if right is not None:
            await right.aclose()

    async def _keep(self, kept: _Kept) -> None:
        path = f"{self._folder}{kept.grant.grant_id}.json"
        await self.storage.state.write(path, _KEPT.dump_json(kept))

    def _expiry(self, now: datetime) -> datetime | None:
        seconds = self.access.ttl_seconds
        return None if seconds is None else now + timedelta(seconds=seconds)

    @property
    def _folder(self) -> str:
        return f"grants/{hashlib.sha256(self.attempt.run_id.encode()).hexdigest()[:32]}/"

    @property
    def _holder(self) -> str:
        return f"run {self.attempt.run_id}, attempt {self.attempt.number}"


def _question(grant: WorkspaceGrant) -> str:
    files = ", ".join(grant.files)
    purpose = f" for {grant.purpose}" if grant.purpose else ""
    reason = f" Reason: {grant.reason}" if grant.reason else ""
    return f"Allow {grant.mode} access to {files}{purpose}?{reason}"
