"""The JSON encoding of values, and one error for values that JSON cannot carry."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Any, Final, NamedTuple

import orjson
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python

from skillfleet.texts import plain_text, shortened_text

_MOST_DEPTH: Final = 200
"""Deeper JSON is refused where arguments are validated (pydantic's parser)."""
_INTEGERS = range(-(2**63), 2**64)
_MOST_PATH_CHARS = 200
_MOST_DIGITS = 1000
_NO_NUMBER = ("JSON has no NaN and no infinity", "write None, or leave it out")

_Path = tuple[str | int, ...]
_Above = tuple[int, ...]
"""The ids of the containers that hold a value."""


class Json(NamedTuple):
    """A value as JSON: `encoded` is its encoding, `plain` the value that decoding yields."""

    encoded: bytes
    plain: Any


class NotJsonError(ValueError):
    """A value that JSON cannot carry unchanged; the message says why, and what to write.

    `where` is the path to it, such as 'items.2.price'; `why` is the message without the advice.
    """

    def __init__(self, path: _Path, why: str, advice: str = "") -> None:
        super().__init__(f"{why}: {advice}" if advice else why)
        self.why = why
        self.where = shortened_text(".".join(map(plain_text, path)), _MOST_PATH_CHARS)


def to_json(value: Any) -> Json:
    """Return the JSON of `value`; raises only NotJsonError, for values that have none.

    Strings, numbers, lists and mappings of any subclass become plain ones; dates, UUIDs, enums,
    decimals, paths, dataclasses and pydantic models take the form that pydantic gives them.
    Values that would change are refused: NaN and infinity, sets, keys that are not strings,
    whole numbers beyond 64 bits, lone surrogates.
    """
    try:
        encoded = orjson.dumps(value)
        plain = from_json(encoded, cache_strings="keys")
        # orjson writes NaN as null, and accepts some types that it should not.
        if plain == value:
            return Json(encoded, plain)
    except Exception:  # noqa: BLE001, S110 - objects may do anything; the walk finds which one
        pass
    try:
        plain = _plain(value)
        return Json(orjson.dumps(plain), plain)
    except RecursionError:
        raise NotJsonError((), "it is nested too deeply") from None


def _plain(value: Any, path: _Path = (), above: _Above = ()) -> Any:
    """Return `value` as plain dicts, lists, strings and numbers only."""
    try:
        convert = next((found for kinds, found in _CONVERSIONS if isinstance(value, kinds)), _other)
        return convert(value, path, above)
    except (NotJsonError, RecursionError):
        raise
    except Exception as error:
        # The value's own code raised it.
        kind, problem = type(value).__name__, type(error).__name__
        raise NotJsonError(path, f"reading this {kind} raised {problem}") from error


def _within(value: Any, path: _Path, above: _Above) -> _Above:
    if id(value) in above:
        raise NotJsonError(path, "it holds itself")
    if len(above) >= _MOST_DEPTH:
        raise NotJsonError(path[:10], f"it is nested more than {_MOST_DEPTH} deep")
    return (*above, id(value))


def _same(value: Any, path: _Path, above: _Above) -> Any:
    del path, above
    return value


def _enum(member: Enum, path: _Path, above: _Above) -> Any:
    return _plain(member.value, path, above)


def _text(value: str, path: _Path, above: _Above = ()) -> str:
    del above
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise NotJsonError(
            path, f"it holds the lone surrogate {found}", "decode it with errors='replace'"
        ) from None
    return text


def _whole(value: int, path: _Path, above: _Above) -> int:
    del above
    number = int.__int__(value)
    if number not in _INTEGERS:
        raise NotJsonError(path, "it exceeds the range of 64 bits", "write it as text")
    return number


def _number(value: float, path: _Path, above: _Above) -> float:
    del above
    number = float.__float__(value)
    if not math.isfinite(number):
        raise NotJsonError(path, *_NO_NUMBER)
    return number


def _decimal(number: Decimal, path: _Path, above: _Above) -> str:
    del above
    if not number.is_finite():
        raise NotJsonError(path, *_NO_NUMBER)
    # JSON Schemas of decimals allow no exponents.
    short = abs(number.adjusted()) <= _MOST_DIGITS
    return format(number, "f") if short else str(number)


def _bytes(value: bytes | bytearray | memoryview, path: _Path, above: _Above) -> str:
    del above
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise NotJsonError(
            path, "these bytes are not UTF-8", "write base64 text, or store an artifact"
        ) from None


def _path(value: PurePath, path: _Path, above: _Above) -> str:
    return _text(str(value), path, above)


def _object(value: Mapping[Any, Any], path: _Path, above: _Above) -> dict[str, Any]:
    within = _within(value, path, above)
    items = [(_key(key, path), item) for key, item in value.items()]
    return {key: _plain(item, (*path, key), within) for key, item in items}


def _key(key: Any, path: _Path) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise NotJsonError(
            path, f"a key of it is {type(key).__name__}", "keys are text, write str(...) of it"
        )
    return _text(key, path)


def _list(value: Iterable[Any], path: _Path, above: _Above) -> list[Any]:
    within = _within(value, path, above)
    return [_plain(item, (*path, at), within) for at, item in enumerate(value)]


def _other(value: Any, path: _Path, above: _Above) -> Any:
    kind = type(value).__name__
    if hasattr(value, "get_secret_value"):
        raise NotJsonError(path, f"{kind} keeps a secret", "what travels is stored and shown")
    if hasattr(type(value), "__pydantic_serializer__"):
        return _model(value, path, _within(value, path, above))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _object(named, path, _within(value, path, above))
    if isinstance(value, AbstractSet | Iterator | Sequence):
        raise NotJsonError(path, f"JSON has no {kind}", "write a list of it")
    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        plain = None
    if not isinstance(plain, str | int | float):
        raise NotJsonError(
            path, f"JSON has no {kind}", "write its fields as a dict, or its text as str(...)"
        )
    return _plain(plain, path, above)


def _model(value: Any, path: _Path, above: _Above) -> Any:
    serializer = type(value).__pydantic_serializer__
    plain = serializer.to_python(value, mode="json", by_alias=True)
    _check_kept(serializer.to_python(value, by_alias=True), plain, path)
    return _plain(plain, path, above)


def _check_kept(before: Any, after: Any, path: _Path) -> None:
    """Refuse values that pydantic silently omits from its JSON: NaN, infinity and secrets."""
    if isinstance(before, float | Decimal) and after is None:
        raise NotJsonError(path, *_NO_NUMBER)
    if hasattr(before, "get_secret_value"):
        _other(before, path, ())
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() & after.keys():
            _check_kept(before[key], after[key], (*path, key))
    elif isinstance(before, list | tuple) and isinstance(after, list):
        for at, (one, other) in enumerate(zip(before, after, strict=False)):
            _check_kept(one, other, (*path, at))


_CONVERSIONS: tuple[tuple[Any, Callable[[Any, _Path, _Above], Any]], ...] = (
    ((bool, NoneType), _same),
    (Enum, _enum),
    (str, _text),
    (int, _whole),
    (float, _number),
    (Decimal, _decimal),
    (Mapping, _object),
    ((list, tuple, deque), _list),
    ((bytes, bytearray, memoryview), _bytes),
    (PurePath, _path),
)
