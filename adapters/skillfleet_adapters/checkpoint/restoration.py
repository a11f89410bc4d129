"""Writing of a tree into a new folder, and its exchange for the old one."""

import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from skillfleet.errors import CheckpointError
from skillfleet_adapters.checkpoint.folders import FOLDER_FLAGS
from skillfleet_adapters.checkpoint.tree import FIFO, FILE, FOLDER, HARD_LINK, SYMLINK, Entry, Tree

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_REWRITE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE: Final = 0o700
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2

Piece = tuple[int, memoryview]
"""An offset in a file, and the content there."""


class Restoration:
    """Writes a tree into an empty folder that only this process writes to.

    Call `prepare`, then `write` for each file and pack, then `finish`. Paths are opened one
    component at a time, never through a symlink. Concurrency: `write` of different packs at once.
    """

    def __init__(self, tree: Tree, root: int) -> None:
        self._tree = tree
        self._root = root

    def prepare(self) -> None:
        """Create all folders, writable by their owner only, and empty files."""
        for entry in self._tree.entries:
            if entry.kind == FOLDER and entry.path:
                with self._parent(entry.path) as (parent, name):
                    os.mkdir(name, _PRIVATE, dir_fd=parent)

    def write(self, folder: str, files: Iterable[tuple[Entry, list[Piece], bool]]) -> None:
        """Write content of a folder's files; with True, all that a file has."""
        with self._opened(folder) as parent:
            for entry, pieces, whole in files:
                file = os.open(entry.path.rpartition("/")[2], _CREATE, 0o600, dir_fd=parent)
                try:
                    for offset, data in pieces:
                        _write_all(file, data, offset)
                    if whole:
                        _settle(file, entry)
                finally:
                    os.close(file)

    def finish(self, written: Callable[[Entry], bool]) -> None:
        """Create what is not content, complete the files not yet `written`, set folders' times."""
        links = []
        for entry in self._tree.entries:
            if entry.kind == HARD_LINK:
                links.append(entry)
            elif entry.kind in {SYMLINK, FIFO}:
                self._create_special(entry)
            elif entry.kind == FILE and not written(entry):
                with self._parent(entry.path) as (parent, name):
                    flags = _REWRITE if entry.chunks else _CREATE
                    file = os.open(name, flags, 0o600, dir_fd=parent)
                    try:
                        _settle(file, entry)
                    finally:
                        os.close(file)
        for entry in links:
            with (
                self._parent(entry.path) as (parent, name),
                self._parent(entry.target) as (other, target),
            ):
                os.link(target, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        for entry in reversed(self._tree.entries):
            if entry.kind == FOLDER:
                with self._opened(entry.path) as folder:
                    os.fchmod(folder, entry.mode)
                    os.utime(folder, ns=(entry.mtime_ns, entry.mtime_ns))

    def _create_special(self, entry: Entry) -> None:
        times = (entry.mtime_ns, entry.mtime_ns)
        with self._parent(entry.path) as (parent, name):
            if entry.kind == SYMLINK:
                os.symlink(entry.target, name, dir_fd=parent)
            else:
                os.mkfifo(name, 0o600, dir_fd=parent)
                # Nothing but this process writes here: the name is the FIFO just made.
                os.chmod(name, entry.mode, dir_fd=parent)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        folder, _, name = path.rpartition("/")
        with self._opened(folder) as parent:
            yield parent, name

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Open a folder below the root, one component at a time."""
        folder = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                child = os.open(part, FOLDER_FLAGS, dir_fd=folder)
                os.close(folder)
                folder = child
            yield folder
        finally:
            os.close(folder)


def _settle(file: int, entry: Entry) -> None:
    """Set a file's length, mode and time."""
    os.ftruncate(file, entry.size)
    os.fchmod(file, entry.mode)
    os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Provide an empty folder beside `target` that replaces it when the block ends without error.

    A process that opens `target` finds the old folder or the new one, complete.
    """
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise CheckpointError(f"{target} is not a folder: nothing was restored")
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.parent / f".{target.name}.restore-{secrets.token_hex(6)}"
        staging.mkdir(_PRIVATE)
    except OSError as error:
        raise _failed(target, error) from error
    try:
        yield staging
        if target.exists():
            _exchange(staging, target)
        else:
            staging.rename(target)
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise _failed(target, error) from error
    finally:
        remove(staging)


def _failed(target: Path, error: OSError) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    where = f" ({error.filename})" if error.filename else ""
    return CheckpointError(f"cannot restore into {target}: {error.strerror or error}{where}")


def _exchange(new: Path, old: Path) -> None:
    """Exchange two folders in one step."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        names = (os.fsencode(new), os.fsencode(old))
        done = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
        code = 0 if done == 0 else ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL}:
        # No such call: two renames, the second of which is undone when it fails.
        aside = new.with_name(f"{new.name}-old")
        old.rename(aside)
        try:
            new.rename(old)
        except BaseException:
            aside.rename(old)
            raise
        aside.rename(new)
    elif code:
        raise OSError(code, os.strerror(code), str(old))


def remove(folder: Path) -> None:
    """Delete a folder and all in it, also what its owner may not write to."""
    if not folder.exists():
        return
    for path, names, _ in os.walk(folder):
        for name in names:
            below = Path(path, name)
            mode = below.lstat().st_mode
            if stat.S_ISDIR(mode) and mode & _PRIVATE != _PRIVATE:
                with suppress(OSError):
                    below.chmod(_PRIVATE)
    with suppress(OSError):
        folder.chmod(_PRIVATE)
    shutil.rmtree(folder, ignore_errors=True)
