"""The manifest of a workspace: its files, and the packs that their content is in.

It is stored as a checkpoint is (`skillfleet_adapters.checkpoint`): as a tree and an index, which
name packs.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from skillfleet.errors import CheckpointError
from skillfleet_adapters.checkpoint.repository import Index, Place
from skillfleet_adapters.checkpoint.snapshot import PACK_BYTES
from skillfleet_adapters.checkpoint.tree import CHUNK_BYTES, FILE, FOLDER, Chunk, Entry, Tree

MOST_PACK_BYTES: Final = PACK_BYTES + CHUNK_BYTES
_MOST_SMALL: Final = 32
"""Packs of which less than half is used, before their content is packed anew."""
_PACK_KEY: Final = re.compile(r"packs/[0-9a-f]{64}-[0-9a-z.]{1,64}")
_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700

Chunks = tuple[Chunk, ...]
"""The content of a file."""


class PackPlace(NamedTuple):
    """The place of a chunk: the key of its pack, and the offset in it."""

    pack: str
    offset: int


@dataclass
class Manifest:
    """One state of a workspace; nothing changes it once it is made."""

    files: dict[str, Chunks] = field(default_factory=dict)
    places: dict[str, PackPlace] = field(default_factory=dict)
    """By the digest of a chunk."""
    packs: dict[str, int] = field(default_factory=dict)
    """The decompressed length of each pack, by its key."""

    @classmethod
    def of(cls, tree: Tree, index: Index) -> "Manifest":
        """Return it from its stored form; raises CheckpointError for one that does not fit."""
        chunks = list(tree.chunks())
        if len(chunks) != len(index.places):
            raise CheckpointError("its index does not fit its tree")
        for key, length in index.packs:
            if not _PACK_KEY.fullmatch(key) or not 0 <= length <= MOST_PACK_BYTES:
                raise CheckpointError(f"its index names the invalid pack {key!r}")
        places = {}
        for chunk, place in zip(chunks, index.places, strict=True):
            if not 0 <= place.pack < len(index.packs):
                raise CheckpointError("its index does not fit its packs")
            places[chunk.digest] = PackPlace(index.packs[place.pack][0], place.offset)
        files = {entry.path: entry.chunks for entry in tree.entries if entry.kind == FILE}
        return cls(files, places, dict(index.packs))

    def tree(self) -> Tree:
        """Return the tree to store; the same for the same files."""
        folders = {""}
        for path in self.files:
            folders.update(_folders(path))
        entries = [Entry(path, FOLDER, _FOLDER_MODE) for path in folders]
        entries += [
            Entry(path, FILE, _FILE_MODE, size=size_of(chunks), chunks=chunks)
            for path, chunks in self.files.items()
        ]
        return Tree(sorted(entries))

    def index(self, tree: Tree) -> Index:
        """Return where the tree's chunks are."""
        numbers: dict[str, int] = {}
        places = [
            Place(numbers.setdefault(place.pack, len(numbers)), place.offset)
            for place in (self.places[chunk.digest] for chunk in tree.chunks())
        ]
        packs = [(key, self.packs[key]) for key in numbers]
        return Index(packs, places, [(0, 0)] * len(self.files), began_ns=0)

    def changed(
        self,
        changes: Mapping[str, Chunks | None],
        places: Mapping[str, PackPlace],
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


def _folders(path: str) -> Iterator[str]:
    above = path.rpartition("/")[0]
    while above:
        yield above
        above = above.rpartition("/")[0]
