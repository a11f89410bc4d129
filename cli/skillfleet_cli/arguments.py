"""The arguments of a skill, as they are given on the command line."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from skillfleet_cli.exits import CommandError


def parse_arguments(source: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """The skill's arguments: the JSON object of `source`, overlaid with `name=value` pairs.

    `source` is JSON, `-` for JSON on stdin, or `@file`. A value is JSON where it can be read
    as such, text otherwise. Raises CommandError.
    """
    return _object(source) | dict(_pair(pair) for pair in pairs)


def _object(source: str | None) -> dict[str, Any]:
    if source is None:
        return {}
    text, where = _read(source)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CommandError(
            f'{where} is not JSON: {error}; write it like \'{{"folder": "."}}\' or --arg folder=.'
        ) from None
    if not isinstance(value, dict):
        raise CommandError(
            f"{where} must be a JSON object with the skill's arguments by name,"
            f" not {type(value).__name__}"
        )
    return value


def _read(source: str) -> tuple[bytes, str]:
    """The JSON text and what to call it in a message."""
    if source == "-":
        return sys.stdin.buffer.read(), "what came on stdin"
    if source.startswith("@"):
        try:
            return Path(source[1:]).read_bytes(), f"the content of {source[1:]}"
        except OSError as error:
            raise CommandError(f"cannot read {source[1:]!r}: {error.strerror}") from None
    return source.encode(errors="surrogateescape"), f"{source[:80]!r}"


def _pair(pair: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not equals or not name:
        raise CommandError(f"--arg {pair!r} must be name=value")
    try:
        return name, orjson.loads(text)
    except orjson.JSONDecodeError:
        return name, text
