"""The writing of changes into the object store, up to the manifest that names them."""

import asyncio
import time
from collections.abc import Mapping

from skillfleet.errors import ObjectStoreError
from skillfleet_adapters.checkpoint.snapshot import PACK_BYTES
from skillfleet_adapters.checkpoint.tree import Chunk
from skillfleet_adapters.workspace.local_files import Spool
from skillfleet_adapters.workspace.manifest import Chunks, Manifest, Place
from skillfleet_adapters.workspace.objects import WorkspaceObjects, new_call


class Publication:
    """One publication; its packs are written once, a manifest for each state it is tried upon."""

    def __init__(
        self, objects: WorkspaceObjects, spool: Spool, changes: Mapping[str, Chunks | None]
    ) -> None:
        self._objects = objects
        self._spool = spool
        self._changes = changes
        self._places: dict[str, Place] = {}
        self._packs: dict[str, int] = {}
        self._call = new_call()

    async def upon(self, manifest: Manifest) -> tuple[str, Manifest]:
        """Return name and content of the manifest with the changes upon another, stored."""
        wanted = {
            chunk.digest: chunk
            for chunks in self._changes.values()
            for chunk in chunks or ()
            if chunk.digest not in manifest.places
        }
        wanted |= {chunk.digest: chunk for chunk in manifest.scattered()}
        await self._pack(manifest, [c for d, c in wanted.items() if d not in self._places])
        after = manifest.changed(self._changes, self._places, self._packs)
        name = await self._objects.write_manifest(after)
        if time.monotonic() > self._call.until:
            raise ObjectStoreError("the change of the workspace took too long to be stored")
        return name, after

    async def _pack(self, manifest: Manifest, chunks: list[Chunk]) -> None:
        """Store chunks in packs, one pack at a time."""
        pack: list[tuple[Chunk, bytes]] = []
        size = 0
        for chunk in chunks:
            if size >= PACK_BYTES:
                await self._write(pack)
                pack, size = [], 0
            pack.append((chunk, await self._content(manifest, chunk)))
            size += chunk.length
        if pack:
            await self._write(pack)

    async def _content(self, manifest: Manifest, chunk: Chunk) -> bytes:
        found = await asyncio.to_thread(self._spool.read, chunk)
        return found or await self._objects.chunk(manifest, chunk)

    async def _write(self, pack: list[tuple[Chunk, bytes]]) -> None:
        key, length = await self._objects.write_pack([data for _, data in pack], self._call)
        self._packs[key] = length
        offset = 0
        for chunk, data in pack:
            self._places[chunk.digest] = Place(key, offset)
            offset += len(data)
