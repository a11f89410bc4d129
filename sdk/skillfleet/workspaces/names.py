"""Safe paths of workspace files."""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from skillfleet.errors import WorkspaceBusy, WorkspaceDenied
from skillfleet.paths import path_fault

_MOST_PART_BYTES: Final = 255
_MOST_PARTS: Final = 64


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
    if any(unicodedata.category(char) in ("Cc", "Cf") for char in path):
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


def check_collision(path: str, files: Iterable[str]) -> None:
    """Raise `WorkspaceDenied` for a new path that cannot stand beside the existing files."""
    existing = set(files) - {path}
    names = {folded(prefix): prefix for file in existing for prefix in prefixes(file)}
    for prefix in prefixes(path):
        other = names.get(folded(prefix), prefix)
        if other != prefix:
            raise WorkspaceDenied(
                f"the path {path!r} is refused: it differs from {other!r} by case or Unicode only"
            )
        if prefix in existing:
            raise WorkspaceDenied(f"the path {path!r} is refused: {prefix!r} is a file")
    if folded(path) in names:
        raise WorkspaceDenied(f"the path {path!r} is refused: it is a folder")
