"""The objects of a workspace in the object store: manifests and packs, and which are in use."""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from skillfleet.errors import CheckpointError
from skillfleet.ports.checkpoint import Checkpoint
from skillfleet_adapters.checkpoint.repository import Head, Repository
from skillfleet_adapters.checkpoint.tree import Chunk, encode
from skillfleet_adapters.checkpoint.zstandard import compress, decompress
from skillfleet_adapters.workspace.local_files import PackCache
from skillfleet_adapters.workspace.manifest import Manifest, PackPlace
from skillfleet_ledger.runs.workspaces import UNUSED_MS

_CALL: Final = re.compile(r".*-([0-9]{1,12})\.[0-9a-f]+")


class WorkspaceObjects:
    """The objects of one workspace. Memory: two packs for each loop that reads or writes."""

    def __init__(self, repository: Repository, cache: PackCache) -> None:
        self._repository = repository
        self._cache = cache
        self._reading = asyncio.Lock()

    async def manifest(self, name: str) -> Manifest:
        """Return a manifest; raises CheckpointError for one that is missing or damaged."""
        if not name:
            return Manifest()
        tree, _, index = name.partition(" ")
        head = Head(Checkpoint(id=name, created_at=datetime.now(UTC)), tree, index)
        found, places = await self._repository.tree(head), await self._repository.index(head)
        return await asyncio.to_thread(Manifest.of, found, places)

    async def chunk(self, manifest: Manifest, chunk: Chunk) -> bytes:
        """Return a chunk, from the local folder once its pack is there; raises CheckpointError."""
        place = manifest.places.get(chunk.digest)
        if place is None:
            raise CheckpointError("a newer state of the workspace has the content")
        found = await asyncio.to_thread(self._cache.read, place, chunk)
        if found is not None:
            return found
        async with self._reading:
            found = await asyncio.to_thread(self._cache.read, place, chunk)
            return found or await self._fetched(manifest, place, chunk)

    async def _fetched(self, manifest: Manifest, place: PackPlace, chunk: Chunk) -> bytes:
        stored = await self._repository.get(place.pack)

        def unpacked() -> bytes:
            pack = decompress(stored, manifest.packs[place.pack])
            data = pack[place.offset : place.offset + chunk.length]
            if hashlib.sha256(data).hexdigest() != chunk.digest:
                raise CheckpointError(f"the pack {place.pack} does not have what its index says")
            self._cache.keep(place.pack, pack)
            return data

        return await asyncio.to_thread(unpacked)

    async def write_pack(self, chunks: Sequence[bytes]) -> tuple[str, int]:
        """Store a pack, and keep it in the local folder; return its key and length."""
        data = b"".join(chunks)
        key = await self._repository.put("packs", await asyncio.to_thread(compress, data), _call())
        await asyncio.to_thread(self._cache.keep, key, data)
        return key, len(data)

    async def write_manifest(self, manifest: Manifest) -> str:
        """Store a manifest; return its name."""
        tree = await asyncio.to_thread(manifest.tree)
        call = _call()
        encoded = await asyncio.to_thread(lambda: compress(encode(tree)))
        key = await self._repository.put("trees", encoded, call)
        index = await asyncio.to_thread(manifest.index, tree)
        return f"{key} {await self._repository.put_index(index, call)}"

    async def discard(self, names: Sequence[str]) -> None:
        """Delete objects."""
        await self._repository.discard(names)

    async def sweep(self, name: str) -> bool:
        """Delete old objects that are not the manifest's; return whether no object is left.

        A young object may be of a call that has not published it yet. Those that such a call
        relies upon are the manifest's, or it publishes nothing.
        """
        stored = await self._repository.stored()
        try:
            manifest = await self.manifest(name)
        except CheckpointError:
            return False  # Another state has replaced it; the next round knows that.
        used = {*name.split(" "), *manifest.packs}
        oldest = time.time() - UNUSED_MS / 1000
        unused = [key for key in stored if key not in used and _is_older(key, oldest)]
        await self.discard(unused)
        return len(unused) == len(stored)


def _call() -> str:
    """Return a new name for the objects of a call, with the time."""
    return f"{int(time.time())}.{secrets.token_hex(8)}"


def _is_older(key: str, oldest: float) -> bool:
    found = _CALL.fullmatch(key)
    return found is not None and int(found[1]) < oldest
