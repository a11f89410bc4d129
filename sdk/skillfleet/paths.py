"""Relative paths of a workspace, and the patterns that select some of them."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

MOST_PATH_CHARACTERS: Final = 1024
"""The longest path or pattern."""

_ANY_DEPTH = "**"
_ItemT = TypeVar("_ItemT")


def matches(path: str, pattern: str) -> bool:
    """Return whether a relative path matches a pattern, of which case counts.

    `*` and `?` stay within a component, `**` as a component is any number of them, also none:
    `**/.env` matches `.env`, `src/**` matches `src`. All other characters stand for themselves.
    Both are NFC (see `path_fault`). The time is bounded by the product of both lengths.
    """
    return _aligns(
        path.split("/"),
        pattern.split("/"),
        lambda component: component == _ANY_DEPTH,
        _component_matches,
    )


def matches_in_any_case(path: str, patterns: Iterable[str]) -> bool:
    """Return whether a path matches one of the patterns, in any case of letters.

    For what is denied: a letter that folds to several, as `ß` does, still is one for `?`.
    """
    folded = path.casefold()
    return any(
        matches(path, pattern) or matches(folded, pattern.casefold()) for pattern in patterns
    )


def path_fault(path: str) -> str | None:
    """Return why a string is not the path of a file in a workspace; None when it is one.

    A path is relative, has neither empty components nor `.` and `..`, neither NUL nor a backslash,
    and is NFC, so that there is one way to write it.
    """
    return next((fault for fault, found in _FAULTS if found(path)), None)


_FAULTS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("is empty", lambda path: not path),
    (
        f"is longer than {MOST_PATH_CHARACTERS} characters",
        lambda path: len(path) > MOST_PATH_CHARACTERS,
    ),
    ("contains a NUL character", lambda path: "\0" in path),
    ("contains a backslash", lambda path: "\\" in path),
    ("is absolute", lambda path: path.startswith("/")),
    (
        "is not valid Unicode",
        lambda path: any("\ud800" <= letter <= "\udfff" for letter in path),
    ),
    (
        "is not in the Unicode form NFC",
        lambda path: not unicodedata.is_normalized("NFC", path),
    ),
    ("contains '..'", lambda path: ".." in path.split("/")),
    (
        "contains '.' or an empty component",
        lambda path: not {"", "."}.isdisjoint(path.split("/")),
    ),
)


def _component_matches(component: str, pattern: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return component == pattern
    return _aligns(
        component,
        pattern,
        lambda letter: letter == "*",
        lambda letter, wanted: wanted in ("?", letter),
    )


def _aligns(
    items: Sequence[_ItemT],
    pattern: Sequence[_ItemT],
    is_star: Callable[[_ItemT], bool],
    fits: Callable[[_ItemT, _ItemT], bool],
) -> bool:
    """Return whether the items fit the pattern one by one, where a star fits any number of them.

    Only the last star ever takes more items: what an earlier one could take beyond its shortest
    fit, the last one can take as well. So there is no nested backtracking.
    """
    at, wanted, star, resume = 0, 0, -1, 0
    while at < len(items):
        if wanted < len(pattern) and is_star(pattern[wanted]):
            star, resume = wanted, at
            wanted += 1
        elif wanted < len(pattern) and fits(items[at], pattern[wanted]):
            at, wanted = at + 1, wanted + 1
        elif star >= 0:
            resume += 1
            at, wanted = resume, star + 1
        else:
            return False
    return all(is_star(item) for item in pattern[wanted:])
