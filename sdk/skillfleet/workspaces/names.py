"""Safe paths of workspace files."""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from skillfleet.errors import WorkspaceBusy, WorkspaceDenied
from skillfleet.paths import path_fault

_MOST_PART_BYTES: Final = 255
_MOST_PARTS: Final = 64
_INVISIBLE: Final = ("Cc", "Cf", "Zl", "Zp")
_BLANK: Final = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800))
) | frozenset(map(chr, (0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
"""Characters of other categories that show nothing, most of them ignorable by default."""


def check_path(path: str) -> tuple[str, ...]:
    """Return the components of a relative path; raises `WorkspaceDenied`."""
    problem = _problem(path)
    if problem is not None:
        raise WorkspaceDenied(f"the path {path!r} is refused: it {problem}")
    return tuple(path.split("/"))


def busy(holder: str) -> WorkspaceBusy:
    """Return the error for a workspace that has a writer."""
    return WorkspaceBusy(f"the workspace has a writer already: {holder}", holder)


def is_safe_name(name: str) -> bool:
    """Return whether a file or folder of that name can be part of a path."""
    return "/" not in name and _problem(name) is None


def _problem(path: str) -> str | None:
    if not isinstance(path, str):
        return "is not a text"
    fault = path_fault(path)
    if fault is not None:
        return fault
    if any(unicodedata.category(char) in _INVISIBLE or char in _BLANK for char in path):
        return "contains a control character or an invisible one"
    parts = path.split("/")
    if len(parts) > _MOST_PARTS or any(len(part.encode()) > _MOST_PART_BYTES for part in parts):
        return "has a component that is too long, or too many of them"
    return None


def folded(text: str) -> str:
    """Return a form that is equal for names that a file system may not distinguish."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def prefixes(path: str) -> Iterator[str]:
    """Yield the path's folders from the top, then the path."""
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


class TakenNames:
    """The names of files and folders, to refuse a new path that cannot stand beside them."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._spellings: dict[str, set[str]] = {}
        for file in files:
            self.add(file)

    def add(self, file: str) -> None:
        """Take the name of a file, and those of its folders."""
        self._files.add(file)
        *folders, _ = prefixes(file)
        self._folders.update(folders)
        for prefix in (*folders, file):
            self._spellings.setdefault(folded(prefix), set()).add(prefix)

    def is_folder(self, path: str) -> bool:
        """Return whether the path is that of a folder."""
        return path in self._folders

    def check(self, path: str) -> None:
        """Raise `WorkspaceDenied` for a path that collides; the path itself may be there."""
        *folders, _ = prefixes(path)
        for prefix in (*folders, path):
            others = self._spellings.get(folded(prefix), set()) - {prefix}
            if others:
                raise WorkspaceDenied(
                    f"the path {path!r} is refused: it differs from {min(others)!r} by case or"
                    " Unicode only"
                )
        for folder in folders:
            if folder in self._files:
                raise WorkspaceDenied(f"the path {path!r} is refused: {folder!r} is a file")
        if path in self._folders:
            raise WorkspaceDenied(f"the path {path!r} is refused: it is a folder")


def check_collision(path: str, files: Iterable[str]) -> None:
    """Raise `WorkspaceDenied` for a new path that cannot stand beside the existing files."""
    TakenNames(files).check(path)
