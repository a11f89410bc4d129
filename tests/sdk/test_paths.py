"""Paths of a workspace and their patterns."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillfleet.paths import MOST_PATH_CHARACTERS, matches, matches_in_any_case, path_fault

_COMPONENT = st.text(alphabet="ab.", min_size=1, max_size=4)
_PATHS = st.lists(_COMPONENT, min_size=1, max_size=5).map("/".join)
_PATTERNS = st.lists(
    st.one_of(st.just("**"), st.text(alphabet="ab.*?", min_size=1, max_size=4)),
    min_size=1,
    max_size=5,
).map("/".join)


def _expected(path: list[str], pattern: list[str]) -> bool:
    """Match by the definition, in exponential time."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_expected(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    if not path:
        return False
    one = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern[0])
    return bool(re.fullmatch(one, path[0])) and _expected(path[1:], pattern[1:])


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        (".env", "**/.env", True),
        ("a/b/.env", "**/.env", True),
        ("a/.env.local", "**/.env", False),
        ("a/b", "*", False),
        ("a", "*", True),
        ("src/a.py", "src/*.py", True),
        ("src/b/a.py", "src/*.py", False),
        ("src/b/a.py", "src/**/*.py", True),
        ("src/a.py", "src/**/*.py", True),
        ("src", "src/**", True),
        ("srcs/a", "src/**", False),
        ("a1", "a?", True),
        ("a/", "a?", False),
        ("ab", "A*", False),
        ("a/b/c", "**", True),
        ("a[1]", "a[1]", True),
        ("a1", "a[1]", False),
        ("a+", "a.", False),
        ("a/x/b/y/b", "a/**/b", True),
        ("naïve/ü", "na?ve/*", True),
    ],
)
def test_a_pattern_selects_paths(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


@given(path=_PATHS, pattern=_PATTERNS)
def test_matching_is_as_defined(path: str, pattern: str) -> None:
    assert matches(path, pattern) is _expected(path.split("/"), pattern.split("/"))


@given(path=_PATHS)
def test_a_path_matches_itself_and_any_depth(path: str) -> None:
    assert matches(path, path)
    assert matches(path, "**")


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        (".ENV", "**/.env", True),
        ("a/.env", "**/.ENV", True),
        ("STRASSE", "straße", True),
        ("aß", "A?", False),
        ("aß", "a?", True),
        (".env.local", "**/.env", False),
    ],
)
def test_patterns_in_any_case_of_letters(path: str, pattern: str, expected: bool) -> None:
    assert matches_in_any_case(path, ("other/**", pattern)) is expected
    assert not matches_in_any_case(path, ())


def test_patterns_full_of_stars_take_no_exponential_time() -> None:
    assert not matches("a" * 1000, "*a" * 500 + "b")
    assert not matches("/".join("a" * 500), "**/a/" * 150 + "b")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("../a", "contains '..'"),
        ("a/../../b", "contains '..'"),
        ("a/..", "contains '..'"),
        ("./a", "contains '.' or an empty component"),
        ("a//b", "contains '.' or an empty component"),
        ("a/", "contains '.' or an empty component"),
        ("a\0b", "contains a NUL character"),
        ("a\\b", "contains a backslash"),
        (unicodedata.normalize("NFD", "ü"), "is not in the Unicode form NFC"),
        ("a\udc80", "is not valid Unicode"),
        ("a" * (MOST_PATH_CHARACTERS + 1), "is longer than 1024 characters"),
    ],
)
def test_what_is_no_path_is_named(path: str, fault: str) -> None:
    assert path_fault(path) == fault


@pytest.mark.parametrize("path", ["a", ".env", "..a", "a/b.txt", "ü/ñ", "a b", "..."])
def test_ordinary_paths_have_no_fault(path: str) -> None:
    assert path_fault(path) is None
