"""Values of any kind as plain JSON values: for log lines that could not be written otherwise.

Nothing here raises, whatever the value does: a line about a trouble must not be lost to the
value that is the trouble.
"""

import logging
import math
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

_DEEPEST = 20
_MOST = 10_000
_LEFT_OUT = "…"
_LEAST_WHOLE, _MOST_WHOLE = -(2**63), 2**64 - 1


def tame(value: object) -> Any:
    """The value as dicts with text as keys, lists, texts, numbers of 64 bits, booleans and None.

    What is deeper than 20 levels, contains itself, or comes after 10,000 others is left out.
    """
    return _Taming().take(value, ())


def safe_repr(value: object) -> str:
    """The value's `repr`, or its type where that fails."""
    try:
        return _text(repr(value))
    except Exception as error:  # noqa: BLE001 - anybody's code
        return f"<{type(value).__qualname__} without a repr: {type(error).__name__}>"


def message_of(record: logging.LogRecord) -> str:
    """A record's message; as it is, with its arguments behind it, where they do not fit in."""
    try:
        return _text(record.getMessage())
    except Exception:  # noqa: BLE001 - anybody's code
        return unfilled(record.msg, record.args)


def unfilled(template: object, args: object) -> str:
    """A message whose arguments do not fit into it."""
    return f"{tame(template)} {tame(args)!r}"


def trace_of(exc_info: object) -> str:
    """The traceback of what was given as `exc_info`, whatever it is."""
    try:
        error = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) > 1 else exc_info
        if isinstance(error, BaseException):
            return _text("".join(traceback.format_exception(error)))
    except Exception:  # noqa: BLE001 - anybody's code
        return safe_repr(exc_info)
    return safe_repr(exc_info)


class _Taming:
    """Taming one value."""

    def __init__(self) -> None:
        self._left = _MOST

    def take(self, value: object, above: tuple[int, ...]) -> Any:
        """`above` are the ids of the containers around the value."""
        self._left -= 1
        try:
            if not isinstance(value, Mapping | list | tuple | set | frozenset):
                return _scalar(value)
            if self._left < 0 or len(above) >= _DEEPEST or id(value) in above:
                return _LEFT_OUT
            return self._container(value, (*above, id(value)))
        except Exception:  # noqa: BLE001 - anybody's code, or a container that changes meanwhile
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
            return int(value) if _LEAST_WHOLE <= value <= _MOST_WHOLE else hex(value)
        case float():
            return float(value) if math.isfinite(value) else safe_repr(value)
        case _:
            return safe_repr(value)


def _key(key: object) -> str:
    return _text(key) if isinstance(key, str) else safe_repr(key)


def _text(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON cannot carry."""
    # Of subclasses, too, whatever they do.
    return str.encode(text, errors="backslashreplace").decode()
