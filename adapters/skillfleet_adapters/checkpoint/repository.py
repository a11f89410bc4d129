"""The objects of a folder's checkpoints: heads, trees, indexes and packs, and which are in use.

A head names a tree and an index by their keys; an index names packs. A key has the SHA-256 of the
object and the random name of the call that wrote it, so that no two calls write the same key: what
a sweep has found unused stays unused.

Calls that create or sweep announce themselves by an object, and then look for the others:

- A create that sees a sweep builds upon no earlier checkpoint: it stores all content anew.
- A sweep lists the objects, announces itself, lists the creates, then the heads. It deletes nothing
  while there is a create.

So a create that a sweep does not see begins after the sweep's announcement. It uses none of the
objects that the sweep has listed, or begins after the sweep's end with the heads that are left.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from skillfleet.errors import CheckpointError, UnknownCheckpointError
from skillfleet.ports.checkpoint import Checkpoint
from skillfleet.ports.objects import ObjectStore
from skillfleet_adapters.checkpoint.encoding import from_json, to_json
from skillfleet_adapters.checkpoint.tree import Row, decode_rows
from skillfleet_adapters.checkpoint.zstandard import compress, decompress

CallKind = Literal["create", "sweep"]

LIFETIMES: Final[dict[CallKind, timedelta]] = {
    "create": timedelta(hours=24),
    "sweep": timedelta(hours=1),
}
"""The time after which the announcement of a call that was killed does not count any more. A call
gives up after half of it, so that the clocks of two machines may differ by the other half."""
_MOST_TREE_BYTES: Final = 1024 * 1024 * 1024
_HEAD_READS: Final = 16


Place = tuple[int, int]
"""The place of a chunk: the number of its pack in the index, and the offset in it."""


@dataclass
class Index:
    """The places of a tree's chunks, and the state of its files when they were read."""

    packs: list[tuple[str, int]]
    """The key of each pack and its decompressed length."""
    places: list[Place]
    """One for each of `Tree.chunks()`."""
    seen: list[tuple[int, int]]
    """The change time and inode of each file of the tree, in its order; (0, 0) if unsettled."""
    began_ns: int
    """When the reading began."""


class Call(NamedTuple):
    """An announced call: its kind and random name, and when it has to give up (monotonic)."""

    kind: CallKind
    name: str
    until: float

    def check(self) -> None:
        """Raise CheckpointError when the call has taken too long."""
        if time.monotonic() > self.until:
            raise CheckpointError(f"the {self.kind} of a checkpoint took too long", retryable=True)


@dataclass(frozen=True)
class Head:
    """A checkpoint, and the keys of its tree and index."""

    checkpoint: Checkpoint
    tree: str
    index: str

    @property
    def manifest(self) -> str:
        """The SHA-256 of the tree: the same for the same state of a folder."""
        return digest_of(self.tree)


def digest_of(key: str) -> str:
    """Return the SHA-256 in an object's key."""
    return key.rpartition("/")[2].partition("-")[0]


class Repository:
    """The checkpoints of one folder in an object store."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store = store
        self._root = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:32]

    async def put(self, kind: str, data: bytes, call: Call) -> str:
        """Store an object; return its key."""
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        name = f"{kind}/{digest}-{call.name}"
        await self._write(name, data)
        return name

    async def get(self, name: str) -> bytes:
        """Return an object that has the digest of its key."""
        try:
            data = b"".join([piece async for piece in self._store.read(f"{self._root}/{name}")])
        except KeyError:
            raise CheckpointError(f"the checkpoint's object {name} does not exist") from None
        actual = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if actual != digest_of(name):
            raise CheckpointError(f"the checkpoint's object {name} does not have its digest")
        return data

    async def heads(self) -> list[Head]:
        """Return all heads, the newest first; deleted ones in between are left out."""
        limit = asyncio.Semaphore(_HEAD_READS)

        async def read(checkpoint: str) -> Head | None:
            async with limit:
                try:
                    return await self.head(checkpoint)
                except UnknownCheckpointError:
                    return None

        found = await asyncio.gather(*(read(each) for each in await self._checkpoints()))
        return [head for head in found if head]

    async def newest(self) -> Head | None:
        """Return the newest head that can be read; None without one."""
        for checkpoint in await self._checkpoints():
            with suppress(CheckpointError):
                return await self.head(checkpoint)
        return None

    async def _checkpoints(self) -> list[str]:
        names = [name async for name in self._names("heads")]
        return sorted((name.removeprefix("heads/") for name in names), reverse=True)

    async def head(self, checkpoint: str) -> Head:
        """Return the head of a checkpoint; raises UnknownCheckpointError."""
        data = await self._head_data(checkpoint)
        if not checkpoint.endswith(hashlib.sha256(data).hexdigest()[:16]):
            raise CheckpointError(
                f"the head of checkpoint {checkpoint!r} does not have its digest: delete it"
            )
        return _head(checkpoint, json.loads(data))

    async def _head_data(self, checkpoint: str) -> bytes:
        if not checkpoint.isascii() or not checkpoint.replace("-", "").isalnum():
            raise UnknownCheckpointError(f"{checkpoint!r} is not the id of a checkpoint")
        key = f"{self._root}/heads/{checkpoint}"
        try:
            return b"".join([piece async for piece in self._store.read(key)])
        except KeyError:
            raise UnknownCheckpointError(
                f"the folder has no checkpoint {checkpoint!r}; list its checkpoints"
            ) from None

    async def rows(self, head: Head) -> list[Row]:
        """Return the rows of a checkpoint's tree, unchecked."""
        data = await self.get(head.tree)
        return await asyncio.to_thread(lambda: decode_rows(decompress(data, _MOST_TREE_BYTES)))

    async def index(self, head: Head) -> Index:
        """Return where the chunks of a checkpoint are."""
        data = await self.get(head.index)
        return await asyncio.to_thread(lambda: _index(decompress(data, _MOST_TREE_BYTES)))

    async def put_tree(self, rows: Sequence[Row], call: Call) -> str:
        """Store the rows of a tree, which are in order; return the key."""
        data = await asyncio.to_thread(lambda: compress(to_json(rows)))
        return await self.put("trees", data, call)

    async def put_index(self, index: Index, call: Call) -> str:
        """Store an index; return its key."""
        fields = [index.packs, _flat(index.places), _flat(index.seen), index.began_ns]
        data = await asyncio.to_thread(lambda: compress(to_json(fields)))
        return await self.put("indexes", data, call)

    async def publish(self, checkpoint: Checkpoint, tree: str, index: str, call: Call) -> Head:
        """Make a checkpoint visible; return its head, which has the id."""
        call.check()
        fields = {
            "call": call.name,
            "created_at": checkpoint.created_at.isoformat(),
            "message": checkpoint.message,
            "position": checkpoint.position,
            "run_id": checkpoint.run_id,
            "step": checkpoint.step,
            "size_bytes": checkpoint.size_bytes,
            "parent": checkpoint.parent,
            "skipped": list(checkpoint.skipped),
            "tree": tree,
            "index": index,
        }
        data = json.dumps(fields, sort_keys=True).encode()
        moment = checkpoint.created_at.strftime("%Y%m%dT%H%M%S%f")
        name = f"{moment}-{hashlib.sha256(data).hexdigest()[:16]}"
        try:
            await self._write(f"heads/{name}", data)
        except BaseException:
            # Cancelled in the middle, or without an answer: it may have been written.
            await asyncio.shield(self._delete([f"heads/{name}"]))
            raise
        return _head(name, fields)

    @asynccontextmanager
    async def announced(self, kind: CallKind) -> AsyncIterator[Call]:
        """Announce a call until the block ends."""
        until = time.monotonic() + LIFETIMES[kind].total_seconds() / 2
        call = Call(kind, secrets.token_hex(8), until)
        key = f"calls/{kind}-{int(time.time())}-{call.name}"
        try:
            await self._write(key, call.name.encode())
            yield call
        finally:
            await asyncio.shield(self._delete([key]))

    async def calls(self, kind: CallKind) -> tuple[list[str], list[str]]:
        """Return the announcements of calls that may be under way, and those that have expired."""
        prefix = f"calls/{kind}-"
        names = [name async for name in self._names("calls") if name.startswith(prefix)]
        oldest = time.time() - LIFETIMES[kind].total_seconds()
        expired = [each for each in names if int(each[len(prefix) :].partition("-")[0]) < oldest]
        return [name for name in names if name not in expired], expired

    async def remove(self, checkpoint: str) -> None:
        """Delete the head of a checkpoint; its other objects stay until a sweep."""
        await self._head_data(checkpoint)
        await self._delete([f"heads/{checkpoint}"])

    async def sweep(self) -> int:
        """Delete the objects that no checkpoint uses; return how many.

        Deletes nothing while a checkpoint is being created, and when a head cannot be read.
        """
        kinds = ("trees", "indexes", "packs")
        stored = [name for kind in kinds async for name in self._names(kind)]
        async with self.announced("sweep") as call:
            creating, expired = await self.calls("create")
            if creating:
                return 0
            used: set[str] = set()
            for head in await self.heads():
                used |= {head.tree, head.index}
                used.update(key for key, _ in (await self.index(head)).packs)
            unused = [name for name in stored if name not in used]
            expired += (await self.calls("sweep"))[1]
            for name in [*unused, *expired]:
                call.check()
                await self._delete([name])
        return len(unused)

    async def _names(self, kind: str) -> AsyncIterator[str]:
        async for key in self._store.keys(f"{self._root}/{kind}"):
            yield key.removeprefix(f"{self._root}/")

    async def _write(self, name: str, data: bytes) -> None:
        async def whole() -> AsyncIterator[bytes]:
            yield data

        await self._store.write(f"{self._root}/{name}", whole())

    async def _delete(self, names: Sequence[str]) -> None:
        await self._store.delete([f"{self._root}/{name}" for name in names])


def _head(checkpoint: str, fields: Any) -> Head:
    return Head(
        Checkpoint(
            id=checkpoint,
            created_at=datetime.fromisoformat(fields["created_at"]).astimezone(UTC),
            message=fields["message"],
            position=fields["position"],
            run_id=fields["run_id"],
            step=fields["step"],
            size_bytes=fields["size_bytes"],
            parent=fields["parent"],
            skipped=tuple(fields["skipped"]),
        ),
        tree=fields["tree"],
        index=fields["index"],
    )


def _flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [number for pair in pairs for number in pair]


def _index(data: bytes) -> Index:
    try:
        packs, places, seen, began_ns = from_json(data)
        if not all(type(number) is int for numbers in (places, seen) for number in numbers):
            raise ValueError("a place is not a number")  # noqa: TRY301 - as the other errors
        return Index(
            packs=[(str(key), int(length)) for key, length in packs],
            places=list(zip(places[::2], places[1::2], strict=True)),
            seen=list(zip(seen[::2], seen[1::2], strict=True)),
            began_ns=int(began_ns),
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the checkpoint's index is invalid: {error}") from None
