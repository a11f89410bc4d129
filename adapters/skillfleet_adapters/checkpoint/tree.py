"""The tree of a checkpoint: its entries, their encoding, and which paths are allowed.

A row is the encoding of one entry, as a list:

    ["d" | "p", path, mode, mtime_ns]                     a folder, a FIFO
    ["l", path, mode, mtime_ns, target]                   a symlink
    ["f", path, mode, mtime_ns, size, *content]           a file
    ["h", path, path of the file]                         a further hard link

The content of a file is the offset, length and digest of each chunk, one after the other.

Creating a checkpoint only compares and copies rows; to restore or compare one, they are checked.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from skillfleet.errors import CheckpointError
from skillfleet.ports.checkpoint import Change
from skillfleet_adapters.checkpoint.encoding import from_json

FOLDER: Final = "d"
FILE: Final = "f"
SYMLINK: Final = "l"
HARD_LINK: Final = "h"
FIFO: Final = "p"

CHUNK_BYTES: Final = 4 * 1024 * 1024
_MODE_BITS: Final = 0o7777
_DIGEST_HEX: Final = 64

Row = list[Any]


class Chunk(NamedTuple):
    """A piece of a file's content: its offset in the file, length and SHA-256."""

    offset: int
    length: int
    digest: str


class Entry(NamedTuple):
    """One path of a tree."""

    path: str
    kind: str
    mode: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""
    """Of a symlink its target, of a hard link the path of the file."""
    chunks: tuple[Chunk, ...] = ()


@dataclass(slots=True)
class Tree:
    """The checked entries of a folder, each after its parent; the folder itself has the path ""."""

    entries: list[Entry] = field(default_factory=list)

    def chunks(self) -> Iterator[Chunk]:
        """Yield each content once, in the order of first use; the index of packs relies on it."""
        seen = set()
        for entry in self.entries:
            for chunk in entry.chunks:
                if chunk.digest not in seen:
                    seen.add(chunk.digest)
                    yield chunk


def decode_rows(data: bytes) -> list[Row]:
    """Return the rows of a tree's JSON, unchecked; raises CheckpointError if they are none."""
    rows = from_json(data)
    if not isinstance(rows, list):
        raise CheckpointError("the checkpoint's tree is invalid: it is not a list")
    return rows


def size_of(rows: Iterable[Row]) -> int:
    """Return the size of all files."""
    return sum(row[4] for row in rows if row[0] == FILE)


def digests(rows: Iterable[Row]) -> Iterator[str]:
    """Yield each digest of `Tree.chunks()` once, in that order."""
    return iter(dict.fromkeys(digest for row in rows if row[0] == FILE for digest in row[7::3]))


def checked(rows: Iterable[Row]) -> Tree:
    """Return the tree of these rows; raises CheckpointError for one that must not be restored.

    Each path lies inside the folder, occurs once, and its parent is a folder of the same tree, so
    that no symlink can be part of a path.
    """
    try:
        entries = [_decoded(*row) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint's tree is invalid: {error}") from None
    _check_paths(entries)
    return Tree(entries)


def _decoded(kind: str, path: Any, *rest: Any) -> Entry:
    if not isinstance(path, str):
        raise TypeError("a path is not a text")
    if kind == HARD_LINK:
        (target,) = rest
        return Entry(path, kind, target=str(target))
    permissions, time_ns, *more = rest
    mode, mtime_ns = int(permissions) & _MODE_BITS, int(time_ns)
    if kind == SYMLINK:
        (target,) = more
        return Entry(path, kind, mode, mtime_ns, target=str(target))
    if kind == FILE:
        size, *content = more
        return Entry(path, kind, mode, mtime_ns, int(size), chunks=_chunks(int(size), content))
    if more or kind not in {FOLDER, FIFO}:
        raise ValueError(f"unknown kind of entry {kind!r}")
    return Entry(path, kind, mode, mtime_ns)


def _chunks(size: int, content: Row) -> tuple[Chunk, ...]:
    parts = zip(content[0::3], content[1::3], content[2::3], strict=True)
    chunks = tuple(Chunk(int(offset), int(length), str(digest)) for offset, length, digest in parts)
    at = 0
    for chunk in chunks:
        if not (at <= chunk.offset and 0 < chunk.length <= CHUNK_BYTES):
            raise ValueError("chunks overlap or are too long")
        if len(chunk.digest) != _DIGEST_HEX:
            raise ValueError("a chunk's digest has the wrong length")
        at = chunk.offset + chunk.length
    if at > size:
        raise ValueError("chunks lie behind the end of their file")
    return chunks


def _check_paths(entries: list[Entry]) -> None:
    kinds: dict[str, str] = {}
    for entry in entries:
        parts = entry.path.split("/") if entry.path else []
        if "\0" in entry.path or any(part in {"", ".", ".."} for part in parts):
            raise CheckpointError(f"the checkpoint's tree has the unsafe path {entry.path!r}")
        if entry.path in kinds:
            raise CheckpointError(f"the checkpoint's tree has {entry.path!r} twice")
        if parts and kinds.get("/".join(parts[:-1])) != FOLDER:
            raise CheckpointError(f"the parent of {entry.path!r} is not a folder of the checkpoint")
        kinds[entry.path] = entry.kind
    if kinds.get("") != FOLDER:
        raise CheckpointError("the checkpoint's tree does not begin with its folder")
    for entry in entries:
        if entry.kind == HARD_LINK and kinds.get(entry.target) != FILE:
            raise CheckpointError(f"{entry.path!r} is a hard link to a file that is not part of it")


def changes(before: Tree, after: Tree) -> list[Change]:
    """Return what differs between two trees, by path; times are not compared."""
    old, new = _contents(before), _contents(after)
    found = [Change(path, "removed") for path in old if path not in new]
    found += [Change(path, "added") for path in new if path not in old]
    found += [Change(path, "changed") for path in new if path in old and old[path] != new[path]]
    return sorted(found, key=lambda change: change.path)


def _contents(tree: Tree) -> Mapping[str, object]:
    """Return what a path is, without its times."""
    files = {entry.path: entry for entry in tree.entries}
    return {
        path: (
            entry.kind if entry.kind != HARD_LINK else FILE,
            *_content(files[entry.target] if entry.kind == HARD_LINK else entry),
        )
        for path, entry in files.items()
        if path
    }


def _content(entry: Entry) -> tuple[object, ...]:
    target = entry.target if entry.kind == SYMLINK else ""
    mode = 0 if entry.kind == SYMLINK else entry.mode
    # Where the chunks of the same content end depends on holes, so a hole counts as a change.
    return (mode, entry.size, target, entry.chunks)
