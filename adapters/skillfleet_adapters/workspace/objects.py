"""The objects of a workspace in the object store: manifests and packs, and which are in use."""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skillfleet.errors import CheckpointError
from skillfleet.ports.objects import ObjectStore
from skillfleet_adapters.checkpoint.repository import Call, Repository
from skillfleet_adapters.checkpoint.tree import Chunk
from skillfleet_adapters.checkpoint.zstandard import compress, decompress
from skillfleet_adapters.workspace.local_files import PackCache
from skillfleet_adapters.workspace.manifest import Manifest, Place
from skillfleet_ledger.runs.workspaces import UNUSED_MS

_CALL: Final = re.compile(r".*-([0-9]{1,12})\.[0-9a-f]+")
_MOST_MANIFEST_BYTES: Final = 256 * 1024 * 1024


class WorkspaceObjects(Repository):
    """The objects of one workspace: packs as those of checkpoints, and manifests that name them.

    Memory: a pack, twice, and the manifest.
    """

    def __init__(self, store: ObjectStore, name: str, cache: PackCache) -> None:
        """`name` is that of the workspace, distinct in the whole store."""
        super().__init__(store, Path(name))
        self._cache = cache
        self._reading = asyncio.Lock()

    async def manifest(self, name: str) -> Manifest:
        """Return a manifest; raises CheckpointError for one that is missing or damaged."""
        if not name:
            return Manifest()
        stored = await self.get(name)
        return await asyncio.to_thread(
            lambda: Manifest.decode(decompress(stored, _MOST_MANIFEST_BYTES))
        )

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

    async def _fetched(self, manifest: Manifest, place: Place, chunk: Chunk) -> bytes:
        stored = await self.get(place.pack)

        def unpacked() -> bytes:
            pack = decompress(stored, manifest.packs[place.pack])
            data = pack[place.offset : place.offset + chunk.length]
            if hashlib.sha256(data).hexdigest() != chunk.digest:
                raise CheckpointError(f"the pack {place.pack} does not have what its manifest says")
            self._cache.keep(place.pack, pack)
            return data

        return await asyncio.to_thread(unpacked)

    async def write_pack(self, chunks: Sequence[bytes], call: Call) -> tuple[str, int]:
        """Store a pack, and keep it in the local folder; return its key and length."""
        data = b"".join(chunks)
        key = await self.put("packs", await asyncio.to_thread(compress, data), call)
        await asyncio.to_thread(self._cache.keep, key, data)
        return key, len(data)

    async def write_manifest(self, manifest: Manifest) -> str:
        """Store a manifest; return its name."""
        data = await asyncio.to_thread(lambda: compress(manifest.encode()))
        return await self.put("manifests", data, new_call())

    async def discard(self, names: Sequence[str]) -> None:
        """Delete objects."""
        await self._delete(names)

    async def sweep_beside(self, name: str) -> bool:
        """Delete old objects that are not the manifest's; return whether no object is left.

        A young object may be of a call that has not published it yet. Those that such a call
        relies upon are the manifest's, or it publishes nothing.
        """
        stored = [key for kind in ("manifests", "packs") async for key in self._names(kind)]
        try:
            manifest = await self.manifest(name)
        except CheckpointError:
            return False  # Another state has replaced it; the next round knows that.
        used = {name, *manifest.packs}
        oldest = time.time() - UNUSED_MS / 1000
        unused = [key for key in stored if key not in used and _is_older(key, oldest)]
        await self._delete(unused)
        return len(unused) == len(stored)


def new_call() -> Call:
    """Return a new call that writes objects; it has to end before they could be swept."""
    name = f"{int(time.time())}.{secrets.token_hex(8)}"
    return Call("create", name, time.monotonic() + UNUSED_MS / 1000 / 2)


def _is_older(key: str, oldest: float) -> bool:
    found = _CALL.fullmatch(key)
    return found is not None and int(found[1]) < oldest
