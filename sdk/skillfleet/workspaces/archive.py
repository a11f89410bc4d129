"""Archives in the tar format that come from outside, and those that go out.

An archive is untrusted: its names are checked as all paths, only regular files are taken, and
neither a header nor a compressed stream can demand more memory than the limits allow.
"""

import asyncio
import gzip
import io
import tarfile
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from skillfleet.errors import InvalidArgumentsError, WorkspaceDenied
from skillfleet.ports.workspace import FileStore
from skillfleet.workspaces.names import check_path

MEBIBYTE: Final = 1024 * 1024
LARGEST_FILE: Final = 100 * MEBIBYTE
"""The largest file that is taken in: files are held in memory one at a time."""

_BLOCK: Final = 512
_BUFFER: Final = 128 * _BLOCK
_MOST_HEADER_BYTES: Final = MEBIBYTE
_GZIP: Final = b"\x1f\x8b"


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""


Source = bytes | Readable | Iterable[bytes] | AsyncIterable[bytes]
"""What an archive is read from."""


@dataclass(frozen=True)
class ArchiveLimits:
    """The limits of an archive: `files` counts its entries, folders included."""

    files: int
    total_bytes: int
    file_bytes: int = LARGEST_FILE


async def unpacked(source: Source, limits: ArchiveLimits) -> AsyncIterator[tuple[str, bytes]]:
    """Yield the files of a tar archive, also a gzipped one, with their content.

    The archive is read in a thread. Raises `WorkspaceDenied` for what is refused, and
    `InvalidArgumentsError` for an incomplete archive.
    """
    feed = _Feed(source)
    members = read_members(feed.next_chunk, limits)
    try:
        while (member := await asyncio.to_thread(next, members, None)) is not None:
            yield member
    finally:
        feed.stop()


def read_members(
    next_chunk: Callable[[], bytes], limits: ArchiveLimits
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive whose bytes `next_chunk` returns; see `unpacked`."""
    chunks = _Chunks(next_chunk)
    raw: Any = chunks
    try:
        if chunks.begin_with(_GZIP):
            raw = gzip.GzipFile(fileobj=raw, mode="rb")
        yield from _Members(raw, limits).read()
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise InvalidArgumentsError(f"the tar archive cannot be read: {error}") from error


async def packed(files: FileStore, time: int) -> AsyncIterator[bytes]:
    """Yield a tar archive of the files in pieces; `time` is that of all its files."""
    for info in await files.list():
        async with files.open(info.path) as content:
            if content is None:
                continue
            member = tarfile.TarInfo(info.path)
            member.size, member.mtime = content.size_bytes, time
            yield member.tobuf(tarfile.PAX_FORMAT)
            async for piece in content.pieces:
                yield piece
            yield b"\0" * (-content.size_bytes % _BLOCK)
    yield b"\0" * (2 * _BLOCK)


class _Feed:
    """The chunks of a source, for a thread."""

    def __init__(self, source: Source) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: Future[bytes] | None = None
        self._stopped = False
        self._next: Callable[[], bytes]
        if isinstance(source, bytes):
            self._next = io.BytesIO(source).read
        elif isinstance(source, Readable):
            self._next = lambda: source.read(_BUFFER)
        elif isinstance(source, AsyncIterable):
            chunks = aiter(source)
            self._next = lambda: self._await(chunks)
        elif isinstance(source, Iterable):
            items = iter(source)
            self._next = lambda: next(items, b"")
        else:
            raise InvalidArgumentsError(
                "an archive is read from bytes, an open binary file or an iterable of bytes, not"
                f" from {type(source).__name__}"
            )

    def next_chunk(self) -> bytes:
        """Return some bytes, none at the end; in the thread."""
        chunk: Any = self._next()
        if not isinstance(chunk, bytes):
            raise InvalidArgumentsError(
                f"an archive has to be bytes, not {type(chunk).__name__}: open the file with 'rb'"
            )
        return chunk

    def stop(self) -> None:
        """End the wait of the thread for a chunk."""
        self._stopped = True
        if self._pending is not None:
            self._pending.cancel()

    def _await(self, chunks: AsyncIterator[bytes]) -> bytes:
        async def step() -> bytes:
            return await anext(chunks, b"")

        self._pending = asyncio.run_coroutine_threadsafe(step(), self._loop)
        if self._stopped:
            self._pending.cancel()
        return self._pending.result()


class _Chunks:
    """Chunks as a file that can be read."""

    def __init__(self, next_chunk: Callable[[], bytes]) -> None:
        self._next_chunk = next_chunk
        self._rest = memoryview(b"")

    def begin_with(self, prefix: bytes) -> bool:
        """Return whether the first bytes are these; they are read all the same."""
        first = b""
        while len(first) < len(prefix) and (chunk := self._next_chunk()):
            first += chunk
        self._rest = memoryview(first)
        return first.startswith(prefix)

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        if not self._rest:
            self._rest = memoryview(self._next_chunk())
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


class _Bounded:
    """The uncompressed archive, of which a header or a file may take `left` bytes.

    It keeps the end of what was read, to see whether the archive is whole.
    """

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._tail = b""
        self._count = 0
        self.left = 0

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        data = self._raw.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise WorkspaceDenied("the tar archive is refused: the header of a file is too large")
        self._count += len(data)
        self._tail = (self._tail + data)[-2 * _BUFFER :]
        return data

    def check_end(self, offset: int) -> None:
        """Raise `InvalidArgumentsError` unless a block of zeros is at the offset."""
        start = offset - (self._count - len(self._tail))
        if start < 0 or self._tail[start : start + _BLOCK] != b"\0" * _BLOCK:
            raise InvalidArgumentsError("the tar archive cannot be read: it ends in the middle")


class _Members:
    """The files of an uncompressed archive, checked one after the other."""

    def __init__(self, raw: Readable, limits: ArchiveLimits) -> None:
        self._bounded = _Bounded(raw)
        self._limits = limits
        self._total = 0

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield the files with their content."""
        self._bounded.left = _MOST_HEADER_BYTES
        opened: Any = self._bounded
        with tarfile.open(fileobj=opened, mode="r|", bufsize=_BUFFER) as archive:
            entries = 0
            while (member := archive.next()) is not None:
                entries += 1
                if entries > self._limits.files:
                    raise WorkspaceDenied(
                        f"the tar archive is refused: it has more than {self._limits.files} entries"
                    )
                if not member.isdir():
                    yield self._path(member), self._content(archive, member)
                self._bounded.left = _MOST_HEADER_BYTES
            self._bounded.check_end(archive.offset)

    def _path(self, member: tarfile.TarInfo) -> str:
        if not member.isreg() or member.issparse():
            raise WorkspaceDenied(
                f"the tar archive is refused: {member.name!r} is no regular file (a link, a device"
                " or a sparse file)"
            )
        path = member.name
        while path.startswith("./"):
            path = path.removeprefix("./")
        check_path(path)
        return path

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        if not 0 <= member.size <= self._limits.file_bytes:
            raise WorkspaceDenied(
                f"the tar archive is refused: {member.name!r} has {member.size} bytes, more than"
                f" {self._limits.file_bytes}"
            )
        self._total += member.size
        if self._total > self._limits.total_bytes:
            raise WorkspaceDenied(
                "the tar archive is refused: its files have more than"
                f" {self._limits.total_bytes} bytes"
            )
        self._bounded.left = member.size + 2 * _BUFFER
        opened = archive.extractfile(member)
        data = b"" if opened is None else opened.read()
        if len(data) != member.size:
            raise InvalidArgumentsError("the tar archive cannot be read: it ends in the middle")
        return data
