"""Keeping the values of secrets that were read in this process out of what it tells."""

import json
from collections import OrderedDict
from urllib.parse import quote

HIDDEN = "[secret]"

SHORTEST = 4
"""A shorter value cannot be hidden: it would turn up by chance everywhere."""

_MOST = 1000
_values: OrderedDict[str, None] = OrderedDict()


def forms_of(secret: str) -> set[str]:
    """How a secret may be written: as it is, in JSON, in Python, in a URL."""
    if len(secret) < SHORTEST:
        return set()
    in_json = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    return {secret, *in_json, repr(secret)[1:-1], quote(secret, safe="")}


def remember(secret: str) -> None:
    """From now on this value is hidden, unless it is too short."""
    for value in forms_of(secret):
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
