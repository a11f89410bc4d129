"""Artifacts: named bytes of a run, stored in chunks so that no other client has to wait."""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson

from skillfleet.contracts import ArtifactInfo
from skillfleet.errors import (
    ArtifactTooLargeError,
    FleetUnavailableError,
    LimitExceededError,
    UnknownArtifactError,
)
from skillfleet_ledger.chunks import ABANDONED_MS, CHUNK_BYTES, IN_FLIGHT
from skillfleet_ledger.redis_client.connection import PipelinedConnection, ReplyError
from skillfleet_ledger.redis_client.protocol import utf8
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.settings import Settings


class LeaseLostError(Exception):
    """The attempt no longer holds the lease and may not write any more."""


class ArtifactStore:
    """The store of artifacts: written under a lease, read as streams."""

    def __init__(self, connection: PipelinedConnection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._keys = settings.keyspace

    async def write(
        self,
        lease: Lease,
        name: str,
        data: AsyncIterable[bytes],
        mime_type: str,
        patience: float | None = None,
    ) -> ArtifactInfo:
        """Store the bytes under `name`, replacing an earlier artifact; visible once complete.

        Each step waits up to `patience` seconds for Redis (default: the connection's timeout).

        Raises ArtifactTooLargeError, LimitExceededError when the run has too many artifacts,
        LeaseLostError, FleetUnavailableError.
        """
        upload = _Upload(self, lease, name, self._settings.max_artifact_bytes, patience)
        try:
            async for piece in data:
                await upload.add(piece)
            await upload.finish()
        except BaseException:
            await upload.abandon()
            raise
        return await self._commit(lease, upload, name, mime_type)

    async def _commit(
        self, lease: Lease, upload: "_Upload", name: str, mime_type: str
    ) -> ArtifactInfo:
        info = ArtifactInfo(
            name=name,
            mime_type=mime_type,
            size_bytes=upload.size,
            sha256=upload.digest.hexdigest(),
            attempt=lease.attempt,
            created_at=datetime.now(UTC),
        )
        entry = info.model_dump(mode="json") | {"blob": upload.id, "chunks": upload.chunks}
        most = self._settings.max_artifacts
        args = (name, orjson.dumps(entry), most)
        if await self.fenced("commit_artifact", lease, *args, timeout=upload.patience) < 0:
            await upload.abandon()
            raise LimitExceededError(
                f"run {lease.run_id!r} already has {most} artifacts (SKILLFLEET_MAX_ARTIFACTS)"
            )
        return info

    async def list(self, run_id: str) -> list[ArtifactInfo]:
        """Return the run's artifacts by name."""
        entries = await self._connection.execute("HVALS", self._index(run_id))
        infos = [ArtifactInfo.model_validate(orjson.loads(entry)) for entry in entries]
        return sorted(infos, key=lambda info: info.name)

    async def read(self, run_id: str, name: str) -> AsyncIterator[bytes]:
        """Yield the artifact's bytes in order; raises UnknownArtifactError."""
        entry = await self._entry(run_id, name)
        key = f"{self._keys.prefix(run_id)}blob:{run_id}:{entry['blob']}"
        ahead: list[asyncio.Task[Any]] = []
        try:
            for number in range(entry["chunks"]):
                ahead.append(asyncio.ensure_future(self._connection.execute("HGET", key, number)))
                if len(ahead) == IN_FLIGHT:
                    yield _chunk(await ahead.pop(0), name)
            while ahead:
                yield _chunk(await ahead.pop(0), name)
        finally:
            for task in ahead:
                task.cancel()

    async def _entry(self, run_id: str, name: str) -> dict[str, Any]:
        index = self._index(run_id)
        entry = await self._connection.execute("HGET", index, name) if utf8(name) else None
        if entry is None:
            known = ", ".join(info.name for info in await self.list(run_id)) or "none"
            raise UnknownArtifactError(f"run {run_id!r} has no artifact {name!r}; it has: {known}")
        loaded: dict[str, Any] = orjson.loads(entry)
        return loaded

    def _index(self, run_id: str) -> str:
        return f"{self._keys.prefix(run_id)}artifacts:{run_id}"

    async def fenced(
        self, script: str, lease: Lease, *args: Any, timeout: float | None = None
    ) -> int:
        """Call a script that writes under the lease; raises LeaseLostError."""
        keys = (self._keys.prefix(lease.run_id),)
        fenced = (lease.run_id, lease.token, *args)
        reply = await run_script(self._connection, script, keys, fenced, timeout)
        if reply == 0:
            raise LeaseLostError(lease.run_id)
        return int(reply)

    async def discard(self, lease: Lease, upload: str) -> None:
        """Delete an upload that was not committed."""
        key = f"{self._keys.prefix(lease.run_id)}blob:{lease.run_id}:{upload}"
        await self._connection.execute("UNLINK", key)


class _Upload:
    """The upload of one artifact: collects whole chunks and keeps a few of them in flight."""

    def __init__(
        self, store: ArtifactStore, lease: Lease, name: str, limit: int, patience: float | None
    ) -> None:
        self.patience = patience
        self.id = uuid.uuid4().hex
        self.digest = hashlib.sha256()
        self.size = 0
        self.chunks = 0
        self._store = store
        self._lease = lease
        self._name = name
        self._limit = limit
        self._buffer = bytearray()
        self._writes: set[asyncio.Task[int]] = set()

    async def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > self._limit:
            raise ArtifactTooLargeError(
                f"artifact {self._name!r} exceeds {self._limit} bytes"
                " (SKILLFLEET_MAX_ARTIFACT_BYTES): write it in several artifacts"
            )
        view = memoryview(piece)
        while view:
            room = CHUNK_BYTES - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == CHUNK_BYTES:
                await self._write_chunk()

    async def finish(self) -> None:
        if self._buffer or not self.chunks:
            await self._write_chunk()
        await self._settle(0)

    async def _write_chunk(self) -> None:
        await self._settle(IN_FLIGHT - 1)
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self.digest.update(chunk)
        number = self.chunks
        self.chunks += 1
        args = (self.id, number, chunk, ABANDONED_MS)
        write = self._store.fenced("write_chunk", self._lease, *args, timeout=self.patience)
        self._writes.add(asyncio.ensure_future(write))

    async def _settle(self, most: int) -> None:
        while len(self._writes) > most:
            done, _ = await asyncio.wait(self._writes, return_when=asyncio.FIRST_COMPLETED)
            for write in done:
                await write
                self._writes.discard(write)

    async def abandon(self) -> None:
        for write in self._writes:
            write.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)
        # Chunks that cannot be deleted now expire by themselves.
        with contextlib.suppress(FleetUnavailableError, ReplyError):
            await self._store.discard(self._lease, self.id)


def _chunk(reply: Any, name: str) -> bytes:
    if reply is None:
        raise UnknownArtifactError(f"artifact {name!r} expired or was replaced while it was read")
    return bytes(reply)
