"""The manifest of a workspace: its files, and the packs that their content is in."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from skillfleet.errors import CheckpointError
from skillfleet_adapters.checkpoint.snapshot import PACK_BYTES
from skillfleet_adapters.checkpoint.tree import CHUNK_BYTES, Chunk

_MOST_PACK_BYTES: Final = PACK_BYTES + CHUNK_BYTES
_MOST_SMALL: Final = 32
"""Packs of which less than half is used, before their content is packed anew."""
_PACK_KEY: Final = re.compile(r"packs/[0-9a-f]{64}-[0-9a-z.]{1,64}")

Chunks = tuple[Chunk, ...]
"""The content of a file."""


class Place(NamedTuple):
    """The place of a chunk: the key of its pack, and the offset in it."""

    pack: str
    offset: int


@dataclass
class Manifest:
    """One state of a workspace; nothing changes it once it is made."""

    files: dict[str, Chunks] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    """By the digest of a chunk."""
    packs: dict[str, int] = field(default_factory=dict)
    """The decompressed length of each pack, by its key."""

    def encode(self) -> bytes:
        """Return it as JSON; the same for the same state."""
        packs = sorted(self.packs)
        numbers = {key: number for number, key in enumerate(packs)}
        files = {
            path: [
                [chunk.digest, chunk.length, numbers[place.pack], place.offset]
                for chunk in self.files[path]
                for place in (self.places[chunk.digest],)
            ]
            for path in sorted(self.files)
        }
        return orjson.dumps({"packs": [[key, self.packs[key]] for key in packs], "files": files})

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Return it from its JSON; raises CheckpointError for what is none."""
        manifest = cls()
        try:
            decoded = orjson.loads(data)
            packs = [(key, length) for key, length in decoded["packs"] if _is_pack(key, length)]
            for path, chunks in decoded["files"].items():
                manifest.files[path] = manifest._chunks(packs, chunks)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise CheckpointError(f"the manifest is invalid: {error}") from None
        manifest.packs.update(packs)
        return manifest

    def _chunks(self, packs: list[tuple[str, int]], encoded: Any) -> Chunks:
        chunks, start = [], 0
        for digest, length, pack, offset in encoded:
            key, most = packs[pack]
            if not (0 < length <= CHUNK_BYTES and 0 <= offset <= most - length):
                raise ValueError(f"the pack {key} does not have what is looked for in it")
            self.places[digest] = Place(key, offset)
            chunks.append(Chunk(start, length, digest))
            start += length
        return tuple(chunks)

    def changed(
        self,
        changes: Mapping[str, Chunks | None],
        places: Mapping[str, Place],
        packs: Mapping[str, int],
    ) -> "Manifest":
        """Return the manifest after changes, given new places and packs, without what is unused."""
        files = {**self.files, **{path: c for path, c in changes.items() if c is not None}}
        for path, chunks in changes.items():
            if chunks is None:
                files.pop(path, None)
        known = {**self.places, **places}
        used = {chunk.digest: known[chunk.digest] for c in files.values() for chunk in c}
        lengths = {**self.packs, **packs}
        return Manifest(files, used, {place.pack: lengths[place.pack] for place in used.values()})

    def scattered(self) -> list[Chunk]:
        """Return the chunks to pack anew: those in little used packs, where these are many."""
        chunks = {chunk.digest: chunk for found in self.files.values() for chunk in found}
        used: Counter[str] = Counter()
        for digest, chunk in chunks.items():
            used[self.places[digest].pack] += chunk.length
        small = {key for key, length in used.items() if length < PACK_BYTES // 2}
        if len(small) <= _MOST_SMALL:
            return []
        return [chunk for digest, chunk in chunks.items() if self.places[digest].pack in small]


def size_of(chunks: Chunks) -> int:
    """Return the size of a file."""
    return sum(chunk.length for chunk in chunks)


def _is_pack(key: str, length: int) -> bool:
    if not _PACK_KEY.fullmatch(key) or not 0 <= length <= _MOST_PACK_BYTES:
        raise ValueError(f"{key!r} is no pack")
    return True
