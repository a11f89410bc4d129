"""One word for one thing: the retired words of retired_words.toml are not used anywhere."""

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.conventions.files import text_of, tracked

RULES: dict[str, Any] = tomllib.loads(
    (Path(__file__).parent / "retired_words.toml").read_text("utf-8")
)
NAMES = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(RULES['name'])})(?![A-Za-z0-9])")
WORDS = re.compile(rf"(?<![a-z])({'|'.join(RULES['word'])})(?![a-z])", re.IGNORECASE)


def allowed(path: str, word: str) -> bool:
    return any(
        fnmatch(path, rule["path"]) and ("*" in rule["words"] or word in rule["words"])
        for rule in RULES["allow"]
    )


def retired(path: str, text: str) -> Iterator[tuple[int, str, str]]:
    """The retired words in a text: line, word, and what to use instead."""
    for number, line in enumerate(text.splitlines(), start=1):
        for found in NAMES.findall(line):
            yield number, found, RULES["name"][found]
        for found in WORDS.findall(line):
            yield number, found.lower(), RULES["word"][found.lower()]


def test_no_retired_word_is_used() -> None:
    found = [
        f"{path}:{line}: {word!r} is retired, use: {instead}"
        for path in tracked()
        for line, word, instead in retired(path, f"{path}\n{text_of(path)}")
        if not allowed(path, word)
    ]
    assert not found, "\n".join(found)


def test_each_exception_is_needed_and_has_a_reason() -> None:
    for rule in RULES["allow"]:
        assert rule["reason"]
        paths = [path for path in tracked() if fnmatch(path, rule["path"])]
        assert paths, rule["path"]
        used = {word for path in paths for _, word, _ in retired(path, text_of(path))}
        assert "*" in rule["words"] or set(rule["words"]) <= used, (rule["path"], used)


def test_a_retired_word_is_found_in_names_prose_and_file_names() -> None:
    shown = {word for _, word, _ in retired("", "def _tell_ended(Purse): # Nobody hears\nspender")}
    assert shown == {"tell_ended", "Purse", "tell", "nobody", "hears"}
