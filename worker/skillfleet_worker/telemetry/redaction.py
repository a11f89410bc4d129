"""Keeping the values of secrets that were read in this process out of what it tells."""

import base64
import json
import re
from collections import OrderedDict
from urllib.parse import quote, quote_plus

from skillfleet.ports.secrets import SHORTEST

HIDDEN = "[secret]"

_SHORTEST_ENCODED = 8
"""A shorter one is not looked for in Base64 and hexadecimal: it would, too, in its letters."""

_PERCENT = re.compile("%[0-9A-F]{2}")

_MOST = 1000
_values: OrderedDict[str, None] = OrderedDict()


def forms_of(secret: str) -> set[str]:
    """How a secret may be written: as it is, in JSON, in Python, in a URL, in Base64 or hex."""
    if len(secret) < SHORTEST:
        return set()
    in_json = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    quoted = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    quoted |= {_PERCENT.sub(lambda found: found[0].lower(), form) for form in quoted}
    return {secret, *in_json, repr(secret)[1:-1], *quoted, *_encoded(secret.encode())}


def _encoded(secret: bytes) -> set[str]:
    """The secret in hexadecimal and Base64, by itself or anywhere inside of something longer."""
    if len(secret) < _SHORTEST_ENCODED:
        return set()
    found = {secret.hex(), secret.hex().upper()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Three bytes make four letters: where it begins among them decides which letters are
        # the secret's alone, and whether nothing comes behind it how they end.
        for before in range(3):
            text = encode(bytes(before) + secret).decode()[-(-before * 8 // 6) :]
            found |= {text, text[: (before + len(secret)) * 8 // 6 - -(-before * 8 // 6)]}
    return found


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
