"""Journals: what runs have recorded, so that a later attempt does not repeat it.

A large value is kept apart under its digest: equal values of a run are stored once, in chunks or as
objects.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from skillfleet.contracts.waits import RecordedStep
from skillfleet.errors import UnknownRunError
from skillfleet.ports.journal import Entry
from skillfleet_ledger.chunks import ABANDONED_MS, CHUNK_BYTES, IN_FLIGHT
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.entries import entry_of, packed
from skillfleet_ledger.runs.objects import RunObjects
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.runs.waits import StoredWait, stored_waits
from skillfleet_ledger.settings import Settings

INLINE_BYTES = 32 * 1024
"""The largest value that is stored within its entry."""
_PAGE = 100
_COPIED = 10
"""Entries that one script copies: each may have a large value."""


class StoredJournal(NamedTuple):
    """The records of earlier attempts. `size` is their bytes, with values that are kept apart."""

    entries: list[Entry]
    emitted: dict[str, int]
    waits: list[StoredWait]
    size: int


class Journals(RunOperations):
    """Writes entries under the lease, and reads them."""

    def __init__(
        self, connection: Connection, settings: Settings, objects: RunObjects | None = None
    ) -> None:
        super().__init__(connection, settings)
        self._objects = objects

    async def load(self, run_id: str) -> StoredJournal:
        """Return the run's journal: entries by number, counts of events by address, waits."""
        emitted, waits, decisions = await self._connection.execute_all(
            ("HGETALL", self._key("emitted", run_id)),
            ("HGETALL", self._key("waits", run_id)),
            ("HGETALL", self._key("decisions", run_id)),
        )
        found: dict[str, bytes] = {}
        async for page in self._pages(run_id):
            found |= page
        entries = [entry_of(identity, stored) for identity, stored in found.items()]
        apart = {entry.digest: entry.size for entry in entries if entry.digest}
        size = sum(len(identity.encode()) + len(stored) for identity, stored in found.items())
        return StoredJournal(
            sorted(entries, key=lambda entry: entry.number),
            {emitted[i].decode(): int(emitted[i + 1]) for i in range(0, len(emitted), 2)},
            stored_waits(waits, decisions),
            size + sum(apart.values()),
        )

    async def record(
        self,
        lease: Lease,
        entry: Entry,
        emitted: Mapping[str, int],
        *,
        version: str,
        clears_step: bool,
    ) -> WriteResult:
        """Record an entry once: RECORDED or LOST.

        `emitted` has the counts of events by address that changed since the last entry. `version`
        is the agent's, '' once this attempt has written it. `clears_step`: it is a step that has
        emitted events, which are valid from now on; those of a failed step are, until a retry
        drops it.
        """
        clears = "1" if clears_step and entry.failure is None else ""
        reply = await self._run(
            "record",
            lease.run_id,
            *(lease.token, entry.identity, packed(entry), version, clears),
            *(entry.digest, "", "", *chain.from_iterable(emitted.items())),
        )
        return WriteResult.LOST if reply[0] == 0 else WriteResult.RECORDED

    async def write_value(self, lease: Lease, digest: str, value: bytes) -> WriteResult:
        """Store a large value under its digest, before the entry is recorded: RECORDED or LOST.

        A value that the run has stored before is not written again.
        """
        key = self._key("values", lease.run_id)
        if await self._connection.execute("SISMEMBER", key, digest):
            return WriteResult.RECORDED
        if self._objects is not None and len(value) > self._settings.artifact_inline_bytes:
            written = await self._objects.write(lease, digest, "", _pieces(value))
            return WriteResult.RECORDED if written else WriteResult.LOST
        chunks = [value[at : at + CHUNK_BYTES] for at in range(0, len(value), CHUNK_BYTES)]
        for start in range(0, len(chunks), IN_FLIGHT):
            replies = await asyncio.gather(
                *(
                    self._run(
                        *("write_chunk", lease.run_id, lease.token),
                        *(digest, start + number, chunk, ABANDONED_MS),
                    )
                    for number, chunk in enumerate(chunks[start : start + IN_FLIGHT])
                )
            )
            if 0 in replies:
                return WriteResult.LOST
        return WriteResult.RECORDED

    async def value(self, run_id: str, entry: Entry) -> bytes:
        """Return the JSON of an entry's value.

        Raises UnknownRunError when it has expired, ObjectStoreError.
        """
        if entry.value is not None:
            return entry.value
        key = self._key(f"blob:{run_id}", entry.digest)
        count = -(-entry.size // CHUNK_BYTES)
        chunks: list[Any] = []
        for start in range(0, count, IN_FLIGHT):
            numbers = range(start, min(start + IN_FLIGHT, count))
            chunks += await self._connection.execute("HMGET", key, *numbers)
        if None not in chunks:
            return b"".join(chunks)
        missing = f"a recorded value of run {run_id!r} is missing: it expired"
        if self._objects is None:
            raise UnknownRunError(missing)
        try:
            return b"".join([piece async for piece in self._objects.read(run_id, entry.digest)])
        except KeyError:
            raise UnknownRunError(missing) from None

    async def copy(self, lease: Lease, source_id: str, before: int | None) -> WriteResult:
        """Copy entries of another run, once: RECORDED or LOST.

        Those that have a number smaller than `before`; None: all that did not fail. Both runs lie
        on one shard. Counts of events are not copied, as the events are not. Safe to repeat.
        Raises UnknownRunError when the other run has expired.
        """

        async def written(some: Sequence[Entry], last: str = "") -> int:
            for entry in some:
                if not await self._copy_object(lease, source_id, entry):
                    return 0
            pairs = chain.from_iterable((entry.identity, entry.digest) for entry in some)
            args = (lease.token, source_id, last, *pairs)
            return int(await self._run("copy_entries", lease.run_id, *args))

        if (known := await written(())) != 1:
            return WriteResult.RECORDED if known else WriteResult.LOST
        if not await self._connection.execute("EXISTS", self._key("run", source_id)):
            raise UnknownRunError(f"the run to fork, {source_id!r}, has expired")
        async for page in self._pages(source_id):
            entries = [entry_of(identity, stored) for identity, stored in page.items()]
            copied = [entry for entry in entries if _is_copied(entry, before)]
            for start in range(0, len(copied), _COPIED):
                if not await written(copied[start : start + _COPIED]):
                    return WriteResult.LOST
        return WriteResult.RECORDED if await written((), "1") else WriteResult.LOST

    async def _copy_object(self, lease: Lease, source_id: str, entry: Entry) -> bool:
        """Copy a value that lies in the object store; False when the lease is lost."""
        if self._objects is None or not entry.digest:
            return True
        if await self._connection.execute("EXISTS", self._key(f"blob:{source_id}", entry.digest)):
            return True
        data = self._objects.read(source_id, entry.digest)
        return await self._objects.write(lease, entry.digest, "", data)

    async def list(self, run_id: str) -> list[RecordedStep]:
        """Return the entries by number, without their values."""
        found: dict[str, RecordedStep] = {}
        async for page in self._pages(run_id):
            found |= {
                identity: entry_of(identity, stored).shown() for identity, stored in page.items()
            }
        return sorted(found.values(), key=lambda step: step.number)

    async def _pages(self, run_id: str) -> AsyncIterator[dict[str, bytes]]:
        """Yield the stored entries by identity; an entry may come twice."""
        cursor = b"0"
        while True:
            key = self._key("journal", run_id)
            cursor, flat = await self._connection.execute("HSCAN", key, cursor, "COUNT", _PAGE)
            yield {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
            if cursor == b"0":
                return


async def _pieces(value: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(value), CHUNK_BYTES):
        yield value[at : at + CHUNK_BYTES]


def _is_copied(entry: Entry, before: int | None) -> bool:
    return entry.failure is None if before is None else entry.number < before
