"""Keeping the values of secrets that were read in this process out of what it tells."""

import json
from collections import OrderedDict

HIDDEN = "[secret]"

_SHORTEST = 4
_MOST = 1000
_values: OrderedDict[str, None] = OrderedDict()


def remember(secret: str) -> None:
    """From now on this value is hidden; one of less than four characters would hide too much."""
    for value in (secret, json.dumps(secret)[1:-1]):
        if len(value) >= _SHORTEST:
            _values[value] = None
            _values.move_to_end(value)
    while len(_values) > _MOST:
        _values.popitem(last=False)


def redact(text: str) -> str:
    """The text without the secrets in it."""
    for value in tuple(_values):
        if value in text:
            text = text.replace(value, HIDDEN)
    return text
