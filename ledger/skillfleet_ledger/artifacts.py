"""Artifacts: named bytes of a run.

In Redis they are stored in chunks, so that no other client has to wait. Where there is an object
store, it has the large ones, and Redis only their descriptions.
"""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import orjson

from skillfleet.contracts import ArtifactInfo
from skillfleet.errors import (
    ArtifactTooLargeError,
    CapabilityUnavailableError,
    FleetUnavailableError,
    LimitExceededError,
    ObjectStoreError,
    UnknownArtifactError,
)
from skillfleet_ledger.chunks import ABANDONED_MS, CHUNK_BYTES, IN_FLIGHT
from skillfleet_ledger.redis_client.connection import PipelinedConnection, ReplyError
from skillfleet_ledger.redis_client.protocol import utf8
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.objects import RunObjects
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.settings import Settings


class LeaseLostError(Exception):
    """The attempt no longer holds the lease and may not write any more."""


class ArtifactStore:
    """The store of artifacts: written under a lease, read as streams."""

    def __init__(
        self,
        connection: PipelinedConnection,
        settings: Settings,
        objects: RunObjects | None = None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._keys = settings.keyspace
        self._objects = objects

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
        LeaseLostError, FleetUnavailableError, ObjectStoreError.
        """
        content = _Content(name, data, self._settings.max_artifact_bytes)
        objects = self._objects
        if objects is None or await content.fits(self._settings.artifact_inline_bytes):
            where = await self._upload_chunks(lease, content, patience)
        else:
            where = await _upload_object(objects, lease, content)
        info = ArtifactInfo(
            name=name,
            mime_type=mime_type,
            size_bytes=content.size,
            sha256=content.digest.hexdigest(),
            attempt=lease.attempt,
            created_at=datetime.now(UTC),
        )
        await self._commit(lease, info, where, patience)
        return info

    async def _upload_chunks(
        self, lease: Lease, content: "_Content", patience: float | None
    ) -> dict[str, Any]:
        upload = _Upload(self, lease, patience)
        try:
            async for piece in content:
                await upload.add(piece)
            await upload.finish()
        except BaseException:
            await upload.abandon()
            raise
        return {"blob": upload.id, "chunks": upload.chunks}

    async def _commit(
        self, lease: Lease, info: ArtifactInfo, where: dict[str, Any], patience: float | None
    ) -> None:
        entry = info.model_dump(mode="json") | where
        most = self._settings.max_artifacts
        args = (info.name, orjson.dumps(entry), most)
        if await self.fenced("commit_artifact", lease, *args, timeout=patience) < 0:
            if where["chunks"]:
                await self.discard(lease, where["blob"])
            raise LimitExceededError(
                f"run {lease.run_id!r} already has {most} artifacts (SKILLFLEET_MAX_ARTIFACTS)"
            )

    async def list(self, run_id: str) -> list[ArtifactInfo]:
        """Return the run's artifacts by name."""
        entries = await self._connection.execute("HVALS", self._index(run_id))
        infos = [ArtifactInfo.model_validate(orjson.loads(entry)) for entry in entries]
        return sorted(infos, key=lambda info: info.name)

    async def read(self, run_id: str, name: str) -> AsyncIterator[bytes]:
        """Yield the artifact's bytes in order, and compare their digest at the end.

        Raises UnknownArtifactError, also for one that was replaced or expired meanwhile,
        ObjectStoreError, and CapabilityUnavailableError where this process has no access to the
        object store.
        """
        entry = await self._entry(run_id, name)
        is_object = entry.get("object")
        pieces = self._read_object(run_id, entry) if is_object else self._read_chunks(run_id, entry)
        digest = hashlib.sha256()
        async with aclosing(pieces):
            async for piece in pieces:
                digest.update(piece)
                yield piece
        if digest.hexdigest() != entry["sha256"]:
            raise ObjectStoreError(
                f"artifact {name!r} is damaged: its bytes do not have the SHA-256 that was stored",
                retryable=False,
            )

    async def _read_object(self, run_id: str, entry: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        objects, name = self._object_store(entry), entry["name"]
        try:
            async for piece in objects.read(run_id, entry["blob"]):
                yield piece
        except KeyError:
            raise _gone(name) from None

    async def _read_chunks(self, run_id: str, entry: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        key = f"{self._keys.prefix(run_id)}blob:{run_id}:{entry['blob']}"
        ahead: list[asyncio.Task[Any]] = []
        try:
            for number in range(entry["chunks"]):
                ahead.append(asyncio.ensure_future(self._connection.execute("HGET", key, number)))
                if len(ahead) == IN_FLIGHT:
                    yield _chunk(await ahead.pop(0), entry["name"])
            while ahead:
                yield _chunk(await ahead.pop(0), entry["name"])
        finally:
            for task in ahead:
                task.cancel()

    async def url(self, run_id: str, name: str, seconds: float) -> str:
        """Return a URL that reads an artifact without credentials for so many seconds.

        Raises UnknownArtifactError, and CapabilityUnavailableError for one that lies in Redis.
        """
        entry = await self._entry(run_id, name)
        if not entry.get("object"):
            raise CapabilityUnavailableError(
                f"artifact {name!r} lies in Redis and has no URL: read it instead"
            )
        return await self._object_store(entry).sign(run_id, entry["blob"], seconds)

    def _object_store(self, entry: dict[str, Any]) -> RunObjects:
        if self._objects is None:
            raise CapabilityUnavailableError(
                f"artifact {entry['name']!r} lies in the object store of the workers: set"
                " SKILLFLEET_ARTIFACTS_URL and its credentials for this process, too"
            )
        return self._objects

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


async def _upload_object(objects: RunObjects, lease: Lease, content: "_Content") -> dict[str, Any]:
    upload = uuid.uuid4().hex
    if not await objects.write(lease, upload, content.name, content):
        raise LeaseLostError(lease.run_id)
    return {"blob": upload, "chunks": 0, "object": True}


class _Content:
    """The bytes of an artifact on their way: counted, limited and hashed. Iterated once."""

    def __init__(self, name: str, data: AsyncIterable[bytes], limit: int) -> None:
        self.name = name
        self.digest = hashlib.sha256()
        self.size = 0
        self._data = aiter(data)
        self._limit = limit
        self._ahead: list[bytes] = []
        self._complete = False

    async def fits(self, most: int) -> bool:
        """Return whether it has at most so many bytes; reads that far ahead."""
        while self.size <= most:
            piece = await self._read()
            if piece is None:
                self._complete = True
                return True
            self._ahead.append(piece)
        return False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._ahead:
            yield self._ahead.pop(0)
        while not self._complete and (more := await self._read()) is not None:
            yield more

    async def _read(self) -> bytes | None:
        piece = await anext(self._data, None)
        if piece is None:
            return None
        self.size += len(piece)
        if self.size > self._limit:
            raise ArtifactTooLargeError(
                f"artifact {self.name!r} exceeds {self._limit} bytes"
                " (SKILLFLEET_MAX_ARTIFACT_BYTES): write it in several artifacts"
            )
        self.digest.update(piece)
        return piece


class _Upload:
    """The upload of one artifact to Redis: collects whole chunks, keeps a few of them in flight."""

    def __init__(self, store: ArtifactStore, lease: Lease, patience: float | None) -> None:
        self.id = uuid.uuid4().hex
        self.chunks = 0
        self._store = store
        self._lease = lease
        self._patience = patience
        self._buffer = bytearray()
        self._writes: set[asyncio.Task[int]] = set()

    async def add(self, piece: bytes) -> None:
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
        number = self.chunks
        self.chunks += 1
        args = (self.id, number, chunk, ABANDONED_MS)
        write = self._store.fenced("write_chunk", self._lease, *args, timeout=self._patience)
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
        raise _gone(name)
    return bytes(reply)


def _gone(name: str) -> UnknownArtifactError:
    return UnknownArtifactError(f"artifact {name!r} expired or was replaced while it was read")
