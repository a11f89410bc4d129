"""A folder as a file store, safe against links and races of other processes.

Every path is opened component by component from the descriptor of its folder, without following
links: a component that is replaced in between is refused or still the one that was opened.
"""

import asyncio
import builtins
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.workspace import FileContent, FileInfo, FileStore
from skillfleet.workspaces.names import check_path, folded, is_safe_name

T = TypeVar("T")

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OF_THE_MACHINE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
_TRIES: Final = 10
_CHUNK: Final = 1 << 20


class FolderFiles(FileStore):
    """The regular files below a folder. `scratch`, on the same file system, has unfinished ones.

    `prepare` makes both folders, in a thread, before each write; where there is none, there are no
    files.
    """

    def __init__(self, root: Path, scratch: Path, prepare: Callable[[], None]) -> None:
        self._root = root
        self._scratch = scratch
        self._prepare = prepare

    async def list(self) -> list[FileInfo]:
        """See `FileStore.list`."""
        return await asyncio.to_thread(self._list)

    async def stat(self, path: str) -> FileInfo | None:
        """See `FileStore.stat`."""
        return await asyncio.to_thread(self._stat, path)

    async def read(self, path: str) -> bytes | None:
        """See `FileStore.read`."""
        return await asyncio.to_thread(self._read, path)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[FileContent | None]:
        """See `FileStore.open`."""
        file = await asyncio.to_thread(self._open, path)
        if file is None:
            yield None
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            yield FileContent(size, _pieces(file, size, path))

    async def write(self, path: str, data: bytes) -> None:
        """See `FileStore.write`."""
        await asyncio.to_thread(_again, lambda: self._write(path, data))

    async def delete(self, path: str) -> bool:
        """See `FileStore.delete`."""
        return await asyncio.to_thread(self._delete, path)

    def _list(self) -> builtins.list[FileInfo]:
        found: builtins.list[FileInfo] = []
        with contextlib.suppress(FileNotFoundError), _root(self._root) as root:
            _walk(root, "", found)
        return sorted(found, key=lambda info: info.path)

    def _stat(self, path: str) -> FileInfo | None:
        with _parent(self._root, path) as (folder, name):
            known = None if folder is None else _regular(folder, name, path)
        return None if known is None else FileInfo(path, known.st_size)

    def _read(self, path: str) -> bytes | None:
        file = self._open(path)
        if file is None:
            return None
        with file:
            return file.read()

    def _open(self, path: str) -> BinaryIO | None:
        with _parent(self._root, path) as (folder, name):
            if folder is None or _regular(folder, name, path) is None:
                return None
            try:
                file = os.open(name, _FILE, dir_fd=folder)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise _refused(path, error) from error
        opened = os.fdopen(file, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            opened.close()
            raise WorkspaceDenied(f"the path {path!r} is refused: it is no regular file")
        return opened

    def _write(self, path: str, data: bytes) -> None:
        check_path(path)
        self._prepare()
        with _root(self._scratch) as scratch, _parent(self._root, path, create=True) as found:
            folder, name = found
            if folder is None:
                raise FileNotFoundError(path)
            known = _regular(folder, name, path)
            if known is None:
                _check_siblings(folder, name, path)
            temporary = secrets.token_hex(16)
            try:
                _fill(scratch, temporary, data, 0o600 if known is None else known.st_mode & 0o777)
                os.rename(temporary, name, src_dir_fd=scratch, dst_dir_fd=folder)
            except OSError as error:
                # On a disk that is full, the rest would keep it so.
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=scratch)
                if error.errno == errno.ENOENT:
                    raise
                raise _refused(path, error) from error
            os.fsync(folder)

    def _delete(self, path: str) -> bool:
        with _parent(self._root, path) as (folder, name):
            if folder is None or _regular(folder, name, path) is None:
                return False
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise _refused(path, error) from error
            os.fsync(folder)
        self._prune(path)
        return True

    def _prune(self, path: str) -> None:
        """Remove the folders that a deletion left empty."""
        above, _, _ = path.rpartition("/")
        while above:
            with _parent(self._root, above) as (folder, name):
                if folder is None:
                    return
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError:
                    return
            above, _, _ = above.rpartition("/")


async def _pieces(file: BinaryIO, size: int, path: str) -> AsyncIterator[bytes]:
    """Yield so many bytes of a file; raises OSError where it is shorter by now."""
    while size:
        piece = await asyncio.to_thread(file.read, min(size, _CHUNK))
        if not piece:
            raise OSError(f"the file {path!r} became shorter while it was read")
        size -= len(piece)
        yield piece


def _open_root(path: Path) -> int:
    try:
        return os.open(path, _FOLDER)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise WorkspaceDenied("the folder of the workspace is a link or no folder") from error
        raise


@contextmanager
def _root(path: Path) -> Iterator[int]:
    root = _open_root(path)
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def _parent(root: Path, path: str, *, create: bool = False) -> Iterator[tuple[int | None, str]]:
    """Yield the descriptor of a path's folder, None where there is none, and the last name."""
    *folders, name = check_path(path)
    try:
        folder = _open_root(root)
    except FileNotFoundError:
        if create:
            raise
        yield None, name
        return
    try:
        for each in folders:
            try:
                below = _folder(folder, each, path, create=create)
            except FileNotFoundError:
                if create:
                    raise
                yield None, name
                return
            os.close(folder)
            folder = below
        yield folder, name
    finally:
        os.close(folder)


def _folder(above: int, name: str, path: str, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        if not create:
            raise
    except OSError as error:
        raise _refused(path, error) from error
    _check_siblings(above, name, path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
        os.fsync(above)
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, error) from error


def _regular(folder: int, name: str, path: str) -> os.stat_result | None:
    """Return the status of a regular file, None for none; raises `WorkspaceDenied` for others."""
    try:
        known = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error) from error
    if not stat.S_ISREG(known.st_mode):
        kind = "a folder" if stat.S_ISDIR(known.st_mode) else "a link or a device"
        raise WorkspaceDenied(f"the path {path!r} is refused: it is {kind}")
    return known


def _check_siblings(folder: int, name: str, path: str) -> None:
    same = folded(name)
    for other in os.listdir(folder):
        if other != name and folded(other) == same:
            raise WorkspaceDenied(
                f"the path {path!r} is refused: {name!r} differs from {other!r} by case or"
                " Unicode only"
            )


def _fill(folder: int, name: str, data: bytes, mode: int) -> None:
    """Write a new file and make it durable."""
    file = os.open(name, _NEW, 0o600, dir_fd=folder)
    with os.fdopen(file, "wb") as opened:
        for start in range(0, len(data), _CHUNK):
            opened.write(data[start : start + _CHUNK])
        opened.flush()
        os.fchmod(file, mode)
        os.fsync(file)


def _walk(folder: int, above: str, found: list[FileInfo]) -> None:
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if is_safe_name(entry.name)]
        for entry in named:
            path = f"{above}{entry.name}"
            try:
                known = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(known.st_mode):
                    found.append(FileInfo(path, known.st_size))
                elif stat.S_ISDIR(known.st_mode) and _is_safe(path):
                    below = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        _walk(below, f"{path}/", found)
                    finally:
                        os.close(below)
            except OSError as error:
                if error.errno in _OF_THE_MACHINE:
                    raise
                continue  # It was removed or replaced in between, or may not be read.


def _is_safe(path: str) -> bool:
    try:
        check_path(path)
    except WorkspaceDenied:
        return False
    return True


def _again(write: Callable[[], T]) -> T:
    """Write again where another process removed an empty folder in between."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return write()
    return write()


def _refused(path: str, error: OSError) -> Exception:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EMLINK):
        return WorkspaceDenied(f"the path {path!r} is refused: it leads through a link or a file")
    return error
