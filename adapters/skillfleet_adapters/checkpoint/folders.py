"""Walks of a folder by open descriptors: a symlink that appears meanwhile is never followed."""

import errno
import os
import stat
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from skillfleet.errors import CheckpointError

FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST: Final = 256


class Found(NamedTuple):
    """A path below the walked folder: the descriptor of its parent, its name and its status."""

    path: str
    parent: int
    name: str
    status: os.stat_result


def open_folder(folder: Path) -> int:
    """Open a folder that is not a symlink itself; raises CheckpointError."""
    try:
        return os.open(folder, FOLDER_FLAGS)
    except OSError as error:
        raise CheckpointError(f"cannot open the folder {folder}: {error.strerror}") from error


def walk(root: int) -> Iterator[Found]:
    """Yield all paths below an open folder, in a fixed order, a folder before what it contains.

    What vanishes meanwhile is left out. `Found.parent` is open until the next path is taken.
    """
    pending = [("", root := os.dup(root), _entries(root))]
    try:
        while pending:
            prefix, folder, entries = pending[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(folder)
                pending.pop()
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = prefix + entry.name
            yield Found(path, folder, entry.name, status)
            if stat.S_ISDIR(status.st_mode):
                child = _open_below(folder, entry.name, path)
                if child is None:
                    continue
                pending.append((f"{path}/", child, _entries(child)))
                if len(pending) > _DEEPEST:
                    raise CheckpointError(f"{path!r} is too deep: {_DEEPEST} folders at most")
    finally:
        for _, folder, _ in pending:
            os.close(folder)


def _open_below(folder: int, name: str, path: str) -> int | None:
    """Open a folder by its name; None if it is gone or is not a folder."""
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # A symlink that has taken its place is ELOOP.
        if error.errno == errno.ELOOP:
            return None
        raise CheckpointError(f"cannot read {path!r}: {error.strerror}") from error


def _entries(folder: int) -> Iterator[os.DirEntry[str]]:
    """Return what an open folder contains, by name; `stat` of an entry needs it to be open."""
    with os.scandir(folder) as found:
        return iter(sorted(found, key=attrgetter("name")))
