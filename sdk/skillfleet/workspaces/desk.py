"""The desk of an attempt: its access, its grants, and its right to write to the workspace."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from skillfleet.contracts import WorkspaceAccess
from skillfleet.contracts.grants import FileOperation, Grant
from skillfleet.errors import GrantInvalid, WorkspaceDenied
from skillfleet.ports.grants import RunGrants
from skillfleet.ports.workspace import WorkspaceGrant, WorkspaceStorage
from skillfleet.workspaces.commit import (
    commit,
    discard,
    recover,
    recover_unheld,
    uninterrupted,
)
from skillfleet.workspaces.limits import (
    Meter,
    Now,
    check_use,
    covers,
    is_denied,
    is_expired,
    utc_now,
)
from skillfleet.workspaces.overlay import NO_STEPS, Overlay, RunSteps

Approve = Callable[[str], Awaitable[bool]]
"""Asks a person a question that is answered True or False."""


@dataclass(frozen=True)
class Exchange:
    """The exchange of access with other runs: the run's own workspace, and how others open."""

    workspace: str
    grants: RunGrants
    storage: Callable[[str], WorkspaceStorage]


@dataclass(frozen=True)
class Attempt:
    """The attempt that uses a workspace: what its grants are kept by, and how it ends."""

    run_id: str
    number: int
    approve: Approve
    defer: Callable[[Callable[[], Awaitable[object]]], None]
    check_lease: Callable[[], Awaitable[None]]
    """Raises unless the attempt may still write; see `RunScope.check_lease`."""
    exchange: Exchange
    now: Now = utc_now
    steps: RunSteps = NO_STEPS


@dataclass(frozen=True)
class Kept:
    """A grant as the state keeps it; `signed` are the claims of one that another run made.

    `lapsed` are the ends of earlier approvals: each of them was followed by another question.
    """

    grant: WorkspaceGrant
    approved: bool
    max_files: int
    run_id: str
    signed: Grant | None = None
    lapsed: tuple[datetime, ...] = ()

    def questions(self) -> list[str]:
        """Return what a person is asked, in the order in which every attempt asks it."""
        first = _question(self.grant)
        return [
            first,
            *(f"{first} The approval until {_time(end)} is over." for end in self.lapsed),
        ]

    def covers(self, access: WorkspaceAccess, path: str, operation: FileOperation) -> bool:
        """Return whether the grant opens a path for an operation."""
        if self.signed is None:
            return covers(access, self.grant, path)
        return self.signed.allows(path, operation) and not is_denied(access, path)


def end_of(signed: Grant) -> datetime:
    """Return when a grant that another run made expires."""
    return datetime.fromtimestamp(signed.exp, UTC)


KEPT: Final = TypeAdapter(Kept)
GRANTS: Final = "grants/"


@dataclass
class Desk:
    """The shared state of an attempt's client and views."""

    storage: WorkspaceStorage
    access: WorkspaceAccess
    attempt: Attempt
    workspace: str
    meter: Meter
    _requests: Counter[str] = field(default_factory=Counter)
    _overlays: dict[str, Overlay] = field(default_factory=dict)
    _right: AsyncExitStack | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _others: dict[str, "Desk"] = field(default_factory=dict)

    @classmethod
    def of(cls, storage: WorkspaceStorage, access: WorkspaceAccess, attempt: Attempt) -> "Desk":
        """Return the desk for the attempt's own workspace."""
        meter = Meter(access.max_files, access.max_total_size_bytes)
        return cls(storage, access, attempt, attempt.exchange.workspace, meter)

    def beside(self, workspace: str) -> "Desk":
        """Return the desk for a workspace: this one, or one that shares the attempt's limits."""
        if workspace == self.workspace:
            return self
        if workspace not in self._others:
            storage = self.attempt.exchange.storage(workspace)
            self._others[workspace] = Desk(
                storage, self.access, self.attempt, workspace, self.meter
            )
        return self._others[workspace]

    def next_id(self, request: Sequence[Any]) -> str:
        """Return the id of the grant for a request, the same one in every attempt."""
        digest = hashlib.sha256(orjson.dumps([self.attempt.run_id, *request])).hexdigest()
        self._requests[digest] += 1
        numbered = f"{digest}#{self._requests[digest]}"
        return f"g-{hashlib.sha256(numbered.encode()).hexdigest()[:24]}"

    async def granted(
        self, wanted: WorkspaceGrant, max_files: int, signed: Grant | None = None
    ) -> WorkspaceGrant:
        """Return the grant of that id: the kept one, or the wanted one once it is approved."""
        now, run_id = self.attempt.now(), self.attempt.run_id
        kept = await self.kept(wanted.grant_id)
        if kept is None or (is_expired(kept.grant, now) and not kept.grant.requires_human_approval):
            files = wanted.files if kept is None else kept.grant.files
            grant = replace(wanted, files=files, expires_at=self._expiry(now, wanted.expires_at))
            kept = Kept(grant, not grant.requires_human_approval, max_files, run_id, signed)
            await self._keep(kept)
        if self._is_unasked(kept):
            asked = replace(kept.grant, requires_human_approval=True)
            kept = replace(kept, grant=asked, approved=False)
            await self._keep(kept)
        if not kept.grant.requires_human_approval:
            return kept.grant
        end = kept.grant.expires_at
        if kept.approved and end is not None and is_expired(kept.grant, now):
            # It is noted before the question: later attempts find the answer to the same one.
            kept = replace(kept, approved=False, lapsed=(*kept.lapsed, end))
            await self._keep(kept)
        for question in kept.questions():
            if not await self.attempt.approve(question):
                raise WorkspaceDenied("a person refused the access")
        if not kept.approved:
            expires_at = self._expiry(self.attempt.now(), wanted.expires_at)
            kept = replace(kept, grant=replace(kept.grant, expires_at=expires_at), approved=True)
            await self._keep(kept)
        return kept.grant

    async def usable(self, grant_id: str) -> Kept:
        """Return a grant of this run; raises `WorkspaceDenied`."""
        kept = await self.kept(grant_id)
        if kept is None or not kept.approved:
            raise WorkspaceDenied(f"this run has no grant {grant_id!r}")
        if self._is_unasked(kept):
            raise WorkspaceDenied(f"a person has to approve {grant_id!r}: request access again")
        return kept

    async def kept(self, grant_id: str) -> Kept | None:
        """Return what the state has of a grant."""
        if not grant_id.startswith("g-") or not grant_id[2:].isalnum():
            return None
        written = await self.storage.state.read(f"{self._folder}{grant_id}.json")
        return None if written is None else KEPT.validate_json(written)

    async def grants(self) -> list[WorkspaceGrant]:
        """Return the run's approved grants that have not expired, by id."""
        now = self.attempt.now()
        found = []
        for info in await self.storage.state.list():
            if info.path.startswith(self._folder):
                written = await self.storage.state.read(info.path)
                kept = None if written is None else KEPT.validate_json(written)
                if kept is None or not kept.approved or self._is_unasked(kept):
                    continue
                if not is_expired(kept.grant, now):
                    found.append(kept)
        return [kept.grant for kept in found if not await self._is_revoked(kept)]

    def _is_unasked(self, kept: Kept) -> bool:
        """Return whether the access requires an approval by now that the grant was made without."""
        return self.access.require_human_approval and not kept.grant.requires_human_approval

    async def _is_revoked(self, kept: Kept) -> bool:
        try:
            await self.check_signed(kept)
        except GrantInvalid:
            return True
        return False

    async def check_signed(self, kept: Kept) -> None:
        """Raise `GrantInvalid` once a grant that another run made has expired or is revoked."""
        if kept.signed is not None:
            await self.attempt.exchange.grants.check(kept.signed)

    async def check_use(self, grant: WorkspaceGrant, signed: Grant | None) -> None:
        """Raise `GrantInvalid` or `WorkspaceDenied` for a grant that does not hold now."""
        if signed is not None:
            await self.attempt.exchange.grants.check(signed)
            if grant.expires_at == end_of(signed):
                # The authority has decided about this end, by its own clock.
                grant = replace(grant, expires_at=None)
        check_use(self.access, grant, self.attempt.now())

    async def overlay(self, grant_id: str) -> Overlay:
        """Return a grant's overlay, with what an earlier attempt has staged."""
        async with self._lock:
            if grant_id not in self._overlays:
                attempt = self.attempt
                overlay = Overlay(self.storage.state, grant_id, attempt.number, attempt.steps)
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

    async def discard(self, overlay: Overlay) -> None:
        """Drop what an overlay has staged, after the end of a commit that has failed."""
        async with overlay.lock:
            if self._right is None:
                await discard(self.storage, overlay, self._holder)
            else:
                await recover(self.storage)
                await overlay.clear()

    async def _end(self) -> None:
        right, self._right = self._right, None
        if right is not None:
            await right.aclose()

    async def _keep(self, kept: Kept) -> None:
        path = f"{self._folder}{kept.grant.grant_id}.json"
        await self.storage.state.write(path, KEPT.dump_json(kept))

    def _expiry(self, now: datetime, latest: datetime | None) -> datetime | None:
        if self.access.ttl_seconds is None:
            return latest
        expiry = now + timedelta(seconds=self.access.ttl_seconds)
        return expiry if latest is None else min(expiry, latest)

    @property
    def _folder(self) -> str:
        return f"{GRANTS}{hashlib.sha256(self.attempt.run_id.encode()).hexdigest()[:32]}/"

    @property
    def _holder(self) -> str:
        return f"run {self.attempt.run_id}, attempt {self.attempt.number}"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _question(grant: WorkspaceGrant) -> str:
    files = ", ".join(grant.files)
    purpose = f" for {grant.purpose}" if grant.purpose else ""
    reason = f" Reason: {grant.reason}" if grant.reason else ""
    return f"Allow {grant.mode} access to {files}{purpose}?{reason}"
