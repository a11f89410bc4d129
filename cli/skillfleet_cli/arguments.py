"""Parser for JSON on the command line: a skill's arguments, answers, inbox messages."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from getpass import getpass
from pathlib import Path
from typing import Any, NamedTuple

from skillfleet_cli.exits import CommandError

_LEAST, _MOST = -(2**63), 2**64 - 1
"""The integers that are transmitted unchanged."""
_DEEPEST = 200


class Given(NamedTuple):
    """The text of a value, and whether it was an argument of the command."""

    text: str
    is_argument: bool = False


def parse_arguments(source: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """Parse the skill's arguments: the JSON object `source`, updated with `name=value` pairs.

    `source` is JSON, `-` for JSON on stdin, or `@file`. A value that is valid JSON is parsed,
    any other is a string. Raises CommandError, also for values that JSON cannot represent.
    """
    return _object(source) | dict(_pair(pair) for pair in pairs)


def parse_json(source: str) -> Any:
    """Parse JSON, `-` for JSON on stdin, or `@file`; raises CommandError."""
    text, where = _read(source)
    try:
        value = _loads(text)
    except ValueError as error:
        raise CommandError(
            f"{where} is not valid JSON: {error}; a string is written in quotes, like '\"go on\"'"
        ) from None
    _check(value, "")
    return value


def read_given(source: str | None) -> Given:
    """Read a value: the argument, `-` for stdin, `@file`; without one a hidden prompt, or stdin."""
    if source is None and sys.stdin.isatty():
        return Given(getpass("answer (hidden): "))
    text, _ = _read("-" if source is None else source)
    is_argument = source is not None and source != "-" and not source.startswith("@")
    return Given(text, is_argument=is_argument)


def parse_value(text: str, fits: Callable[[Any], bool]) -> Any:
    """Parse a value; raises CommandError.

    It is the text itself where that is not valid JSON, or where only the text `fits`.
    """
    text = text.removesuffix("\n")
    try:
        value = _loads(text)
    except ValueError:
        return text
    if fits(text) and not fits(value):
        return text
    _check(value, "")
    return value


def _object(source: str | None) -> dict[str, Any]:
    if source is None:
        return {}
    text, where = _read(source)
    try:
        value = _loads(text)
    except ValueError as error:
        raise CommandError(
            f"{where} is not valid JSON: {error};"
            ' write it like \'{"folder": "."}\' or --arg folder=.'
        ) from None
    if not isinstance(value, dict):
        raise CommandError(
            f"{where} must be a JSON object with the skill's arguments by name,"
            f" not {type(value).__name__}"
        )
    _check(value, "")
    return value


def _read(source: str) -> tuple[str, str]:
    """Return the JSON text and its description for error messages."""
    if source == "-":
        return _utf8(sys.stdin.buffer.read(), "the input on stdin")
    if not source.startswith("@"):
        return source, f"{source[:80]!r}"
    try:
        return _utf8(Path(source[1:]).read_bytes(), f"the content of {source[1:]}")
    except OSError as error:
        raise CommandError(f"cannot read {source[1:]!r}: {error.strerror}") from None


def _utf8(data: bytes, where: str) -> tuple[str, str]:
    try:
        return data.decode("utf-8-sig"), where
    except UnicodeDecodeError as error:
        raise CommandError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from None


def _pair(pair: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not equals or not name:
        raise CommandError(f"--arg {pair!r} must be name=value")
    try:
        value = _loads(text)
    except ValueError:
        return name, text
    _check(value, name)
    return name, value


def _loads(text: str) -> Any:
    """Parse JSON, with numbers exactly as written; raises ValueError."""
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise CommandError(f"the JSON is nested deeper than {_DEEPEST} levels") from None


def _whole(digits: str) -> int | float:
    """Parse an integer; one with more digits than Python accepts counts as infinite."""
    try:
        return int(digits)
    except ValueError:
        return math.inf


def _check(value: Any, where: str) -> None:
    """Raise CommandError for a value that would arrive changed, naming its place."""
    level = [(where, value)]
    for _ in range(_DEEPEST):
        for place, each in level:
            _check_one(each, place)
        level = [below for place, each in level for below in _below(each, place)]
        if not level:
            return
    raise CommandError(f"{level[0][0][:80]}…: nested deeper than {_DEEPEST} levels")


def _below(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            _check_one(name, f"a name in {where or 'the arguments'}")
            yield f"{where}.{name}" if where else name, each
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield f"{where}[{number}]", each


def _check_one(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise CommandError(
            f"{where}: JSON cannot represent NaN or infinity, and a number beyond 1e308 becomes"
            " infinite; send it as a string, in quotes"
        )
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise CommandError(
            f"{where}: {_short(value)} has more than 64 bits; send it as a string, in quotes"
        )
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CommandError(f"{where}: half of a surrogate pair is not valid text") from None


def _short(value: int) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"  # noqa: PLR2004
