"""Conversion of any value to plain JSON values, for log lines that fail otherwise.

Nothing here raises, whatever the value's code does: a line about a problem must not be lost to the
value that is the problem.
"""

import logging
import math
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_DEPTH = 20
_MAX_VALUES = 10_000
_OMITTED = "…"
_MIN_WHOLE, _MAX_WHOLE = -(2**63), 2**64 - 1


def tame(value: object) -> Any:
    """Return the value as dicts with string keys, lists, strings, 64-bit numbers, booleans, None.

    Values deeper than 20 levels, values that contain themselves, and those after the first 10,000
    are omitted.
    """
    return _Taming().take(value, ())


def safe_repr(value: object) -> str:
    """Return the value's `repr`, or its type where that fails."""
    try:
        return _text(repr(value))
    except Exception as error:  # noqa: BLE001 - the value's own code
        return f"<{type(value).__qualname__} without a repr: {type(error).__name__}>"


def message_of(record: logging.LogRecord) -> str:
    """Return a record's message, followed by its arguments where they do not fit into it."""
    try:
        return _text(record.getMessage())
    except Exception:  # noqa: BLE001 - the value's own code
        return unfilled(record.msg, record.args)


def unfilled(template: object, args: object) -> str:
    """Return a message, followed by the arguments that do not fit into it."""
    return f"{tame(template)} {tame(args)!r}"


def trace_of(exc_info: object) -> str:
    """Return the traceback of a value given as `exc_info`, of whatever type."""
    try:
        error = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) > 1 else exc_info
        if isinstance(error, BaseException):
            return _text("".join(traceback.format_exception(error)))
    except Exception:  # noqa: BLE001 - the value's own code
        return safe_repr(exc_info)
    return safe_repr(exc_info)


class _Taming:
    """The conversion of one value."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def take(self, value: object, above: tuple[int, ...]) -> Any:
        """`above` are the ids of the containers around the value."""
        self._left -= 1
        try:
            if not isinstance(value, Mapping | list | tuple | set | frozenset):
                return _scalar(value)
            if self._left < 0 or len(above) >= _MAX_DEPTH or id(value) in above:
                return _OMITTED
            return self._container(value, (*above, id(value)))
        except Exception:  # noqa: BLE001 - the value's own code, or a container that changes meanwhile
            return safe_repr(value)

    def _container(self, value: Mapping[Any, Any] | Iterable[Any], above: tuple[int, ...]) -> Any:
        if not isinstance(value, Mapping):
            return [self.take(each, above) for each in list(value)[: self._room()]]
        items = list(value.items())[: self._room()]
        return {_key(key): self.take(each, above) for key, each in items}

    def _room(self) -> int:
        return max(self._left, 0)


def _scalar(value: object) -> str | float | None:
    match value:
        case None | bool():
            return value
        case str():
            return _text(value)
        case int():
            # Python writes no decimal number of thousands of digits.
            return int(value) if _MIN_WHOLE <= value <= _MAX_WHOLE else hex(value)
        case float():
            return float(value) if math.isfinite(value) else safe_repr(value)
        case _:
            return safe_repr(value)


def _key(key: object) -> str:
    return _text(key) if isinstance(key, str) else safe_repr(key)


def _text(text: str) -> str:
    """Return the string without halves of surrogate pairs, which JSON cannot carry."""
    # `str.encode`, because a subclass may override its own.
    return str.encode(text, errors="backslashreplace").decode()
