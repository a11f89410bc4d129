"""Reading of a folder into rows and packs; what the previous checkpoint has is not read again."""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from skillfleet.errors import CheckpointError
from skillfleet_adapters.checkpoint.folders import Found, open_folder, walk
from skillfleet_adapters.checkpoint.repository import Index, Place
from skillfleet_adapters.checkpoint.tree import (
    CHUNK_BYTES,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    SYMLINK,
    Row,
    digests,
)

PACK_BYTES: Final = 8 * 1024 * 1024
_SETTLED_NS: Final = 2_000_000_000
"""A file that changed later than this before a reading began may have changed again since, within
the resolution of its times."""
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK: Final = 512

Store = Callable[[int, list[bytes]], None]
"""Takes a full pack: its number and chunks."""


@dataclass
class Previous:
    """The previous checkpoint's knowledge of the folder."""

    files: Sequence[Row] = ()
    numbers: dict[str, int] = field(default_factory=dict)
    """The number of each path in `files` and `seen`."""
    seen: Sequence[tuple[int, int]] = ()
    """The change time and inode of each file when it was read."""
    packs: Sequence[tuple[str, int]] = ()
    places: dict[str, Place] = field(default_factory=dict)
    settled_ns: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row], index: Index) -> "Previous":
        """Return it from a checkpoint's rows and index."""
        try:
            files = [row for row in rows if row[0] == FILE]
            places = dict(zip(digests(files), index.places, strict=True))
            numbers = {row[1]: number for number, row in enumerate(files)}
            if len(files) != len(index.seen):
                raise ValueError("different numbers of files")  # noqa: TRY301 - as the others
        except (ValueError, TypeError, LookupError) as error:
            raise CheckpointError(
                f"the checkpoint's index does not fit its tree: {error}"
            ) from None
        settled_ns = index.began_ns - _SETTLED_NS
        return cls(files, numbers, index.seen, index.packs, places, settled_ns)

    def unchanged(self, path: str, status: os.stat_result) -> Row | None:
        """Return the file's row if it certainly has the same content."""
        number = self.numbers.get(path)
        if number is None:
            return None
        row = self.files[number]
        modified, changed = status.st_mtime_ns, status.st_ctime_ns
        same = (
            self.seen[number] == (changed, status.st_ino)
            and changed < self.settled_ns
            and modified < self.settled_ns
            and row[2:5] == [stat.S_IMODE(status.st_mode), modified, status.st_size]
        )
        return row if same else None


class Snapshot:
    """One reading of a folder; passes new content to `store` in packs.

    Memory: one pack and one chunk, beside the tree. `stopped` is asked between files.
    """

    def __init__(self, previous: Previous, store: Store, stopped: Callable[[], bool]) -> None:
        self._previous = previous
        self._store = store
        self._stopped = stopped
        self._began_ns = time.time_ns()
        self._rows: list[Row] = []
        self._seen: dict[str, tuple[int, int]] = {}
        self._links: dict[tuple[int, int], str] = {}
        self._new: dict[str, Place] = {}
        self._pack: list[bytes] = []
        self._pack_bytes = 0
        self._packs = 0
        self.skipped: list[str] = []

    def read(self, folder: Path) -> list[Row]:
        """Read the folder; return its rows, a folder before what it contains."""
        root = open_folder(folder)
        try:
            self._rows.append(_row(FOLDER, "", os.fstat(root)))
            for found in walk(root):
                if self._stopped():
                    raise CheckpointError("the checkpoint was stopped", retryable=True)
                self._take(found)
        finally:
            os.close(root)
        self._flush()
        return self._rows

    def index(self, packs: Sequence[tuple[str, int]]) -> Index:
        """Return where the content of the rows is, given the new packs' keys and lengths."""
        used: dict[tuple[bool, int], int] = {}
        keys: list[tuple[str, int]] = []
        places = []
        for digest in digests(self._rows):
            fresh = self._new.get(digest)
            pack, offset = fresh or self._previous.places[digest]
            number = used.setdefault((fresh is not None, pack), len(keys))
            if number == len(keys):
                keys.append((packs if fresh else self._previous.packs)[pack])
            places.append((number, offset))
        seen = [self._seen[row[1]] for row in self._rows if row[0] == FILE]
        return Index(keys, places, seen, self._began_ns)

    def _take(self, found: Found) -> None:
        status = found.status
        mode = status.st_mode
        if stat.S_ISREG(mode):
            self._take_file(found)
        elif stat.S_ISDIR(mode):
            self._rows.append(_row(FOLDER, found.path, status))
        elif stat.S_ISFIFO(mode):
            self._rows.append(_row(FIFO, found.path, status))
        elif stat.S_ISLNK(mode):
            try:
                target = os.readlink(found.name, dir_fd=found.parent)
            except OSError:
                return
            self._rows.append([SYMLINK, found.path, 0o777, status.st_mtime_ns, target])
        else:
            self.skipped.append(found.path)

    def _take_file(self, found: Found) -> None:
        status = found.status
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._links:
            self._rows.append([HARD_LINK, found.path, self._links[identity]])
            return
        known = self._previous.unchanged(found.path, status)
        if known is not None:
            self._seen[found.path] = (status.st_ctime_ns, status.st_ino)
            self._rows.append(known)
        elif not self._read_file(found):
            return
        if status.st_nlink > 1:
            self._links[identity] = found.path

    def _read_file(self, found: Found) -> bool:
        """Read a file; return False if it is gone or is not a file."""
        try:
            file = os.open(found.name, _FILE_FLAGS, dir_fd=found.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False
            raise CheckpointError(f"cannot read {found.path!r}: {error.strerror}") from error
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return False
            content = list(self._content(file, status))
            after = os.fstat(file)
        finally:
            os.close(file)
        settled = (status.st_mtime_ns, status.st_size, status.st_ctime_ns) == (
            after.st_mtime_ns,
            after.st_size,
            after.st_ctime_ns,
        )
        self._seen[found.path] = (status.st_ctime_ns, status.st_ino) if settled else (0, 0)
        self._rows.append([*_row(FILE, found.path, status), status.st_size, *content])
        return True

    def _content(self, file: int, status: os.stat_result) -> Iterator[int | str]:
        for begin, end in _extents(file, status):
            at = begin
            while at < end:
                data = os.pread(file, min(CHUNK_BYTES, end - at), at)
                if not data:
                    break
                digest = hashlib.sha256(data).hexdigest()
                self._keep(digest, data)
                yield from (at, len(data), digest)
                at += len(data)

    def _keep(self, digest: str, data: bytes) -> None:
        if digest in self._new or digest in self._previous.places:
            return
        self._new[digest] = (self._packs, self._pack_bytes)
        self._pack.append(data)
        self._pack_bytes += len(data)
        if self._pack_bytes >= PACK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pack:
            self._store(self._packs, self._pack)
            self._packs += 1
            self._pack, self._pack_bytes = [], 0


def _extents(file: int, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that are not holes."""
    if status.st_blocks * _BLOCK >= status.st_size:
        yield 0, status.st_size
        return
    end = 0
    while end < status.st_size:
        try:
            begin = os.lseek(file, end, os.SEEK_DATA)
        except OSError:
            # ENXIO: the rest is a hole.
            return
        end = min(os.lseek(file, begin, os.SEEK_HOLE), status.st_size)
        if end > begin:
            yield begin, end


def _row(kind: str, path: str, status: os.stat_result) -> Row:
    return [kind, path, stat.S_IMODE(status.st_mode), status.st_mtime_ns]
