"""The local folder of workspaces in the object store: known packs, and unpublished content.

Nothing in it is needed after the process: packs are verified when they are read, and may be deleted
at any time; unpublished content is in files without a name.
"""

import hashlib
import os
import secrets
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from skillfleet.errors import SettingsError
from skillfleet_adapters.checkpoint.tree import CHUNK_BYTES, Chunk
from skillfleet_adapters.workspace.manifest import Chunks, Place

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNFINISHED: Final = ".part"
_UNFINISHED_SECONDS: Final = 3600.0
"""How old an unfinished file is whose process was killed."""


class PackCache:
    """Packs in a folder of this user, the least recently used of which are deleted."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most = most_bytes
        self._added = 0
        """The size of what was added since the last look at the whole folder."""

    def folder(self) -> Path:
        """Return the folder, made where it is missing; raises SettingsError for another user's."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = self._folder.lstat()
        except OSError as error:
            raise SettingsError(f"SKILLFLEET_WORKSPACE_CACHE: {error}") from None
        if not self._folder.is_dir() or self._folder.is_symlink() or known.st_uid != os.geteuid():
            raise SettingsError(
                f"SKILLFLEET_WORKSPACE_CACHE: {self._folder} is not a folder of this user"
            )
        return self._folder

    def read(self, place: Place, chunk: Chunk) -> bytes | None:
        """Return a chunk of a pack; None where the pack is missing or damaged."""
        try:
            file = os.open(self._path(place.pack), _READ)
        except OSError:
            return None
        try:
            data = os.pread(file, chunk.length, place.offset)
            os.utime(file)
        except OSError:
            return None
        finally:
            os.close(file)
        return data if hashlib.sha256(data).hexdigest() == chunk.digest else None

    def keep(self, pack: str, data: bytes) -> None:
        """Keep a pack."""
        path = self.folder() / f"{secrets.token_hex(16)}{_UNFINISHED}"
        try:
            path.write_bytes(data)
            path.rename(self._path(pack))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._added += len(data)
        if self._added > self._most // 8:
            self.trim()

    def trim(self) -> None:
        """Delete what was not used for the longest time, above the limit."""
        self._added = 0
        found = []
        oldest = time.time() - _UNFINISHED_SECONDS
        with suppress(FileNotFoundError):
            for file in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    known = file.lstat()
                    if file.suffix != _UNFINISHED or known.st_mtime < oldest:
                        found.append((known.st_mtime, known.st_size, file))
        left = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if left <= self._most:
                return
            file.unlink(missing_ok=True)
            left -= size

    def _path(self, pack: str) -> Path:
        return self._folder / pack.rpartition("/")[2]


class Spool:
    """Content that is not published yet, in a file without a name that ends with the process.

    Any thread.
    """

    def __init__(self, cache: PackCache) -> None:
        self._cache = cache
        self._file: int | None = None
        self._closer: Callable[[], Any] | None = None
        self._size = 0
        self._places: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, data: bytes) -> Chunks:
        """Keep a file's content."""
        with self._lock:
            return tuple(self._add(data))

    def read(self, chunk: Chunk) -> bytes | None:
        """Return a chunk; None where it is not here, or not any more."""
        with self._lock:
            place = self._places.get(chunk.digest)
            if place is None or self._file is None:
                return None
            return os.pread(self._file, chunk.length, place)

    def clear(self) -> None:
        """Drop all content."""
        with self._lock:
            self._places.clear()
            self._size, self._file = 0, None
            if self._closer is not None:
                self._closer()

    def _add(self, data: bytes) -> Iterator[Chunk]:
        file = self._open() if self._file is None else self._file
        for start in range(0, len(data), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            digest = hashlib.sha256(piece).hexdigest()
            if digest not in self._places:
                _write(file, piece, self._size)
                self._places[digest] = self._size
                self._size += len(piece)
            yield Chunk(start, len(piece), digest)

    def _open(self) -> int:
        """Open a file that has no name; it is closed with this object at the latest."""
        with tempfile.TemporaryFile(dir=self._cache.folder()) as named:
            self._file = file = os.dup(named.fileno())
        self._closer = weakref.finalize(self, os.close, file)
        return file


def _write(file: int, data: bytes, place: int) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, place)
        rest, place = rest[count:], place + count
