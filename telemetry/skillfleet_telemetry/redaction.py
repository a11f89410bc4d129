"""Keeping tokens, and secrets that were read in this process, out of what it logs and traces."""

import base64
import json
import re
import threading
from collections import OrderedDict
from typing import Any
from urllib.parse import quote, quote_plus

from skillfleet.ports.secrets import SHORTEST

HIDDEN = "[secret]"

_SHORTEST_ENCODED = 8
"""A shorter one is not looked for in Base64 and hexadecimal: it would, too, in its letters."""

_PERCENT = re.compile("%[0-9A-F]{2}")

_TOKEN = re.compile(r"eyJ(?:hbGciOi|0eXAiOi|raWQiOi)[\w.-]*")
"""A JSON Web Token, or the beginning of one: {"alg": {"typ": or {"kid": in Base64."""

_MOST = 1000


def forms_of(secret: str) -> set[str]:
    """How a secret may be written: as it is, in JSON, in Python, in a URL, in Base64 or hex.

    JSON and Python also within each other: what a model asks of a tool is JSON in JSON.
    """
    if len(secret) < SHORTEST:
        return set()
    once = {secret, *_in_json(secret), *_in_python(secret)}
    twice = {again for form in once for again in (*_in_json(form), *_in_python(form))}
    quoted = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    quoted |= {_PERCENT.sub(lambda found: found[0].lower(), form) for form in quoted}
    return {*once, *twice, *quoted, *_encoded(secret.encode())}


def _in_json(text: str) -> set[str]:
    return {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _in_python(text: str) -> set[str]:
    """The text in a `repr` of text or bytes: which quotes are escaped depends on the rest."""
    both = "'\""
    found = {repr(text)[1:-1], repr(text + both)[1:-4]}
    return found | {repr(text.encode())[2:-1], repr((text + both).encode())[2:-4]}


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


class Memory:
    """The secrets that were read lately, at most so many. Any thread."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._secrets: OrderedDict[str, set[str]] = OrderedDict()
        self._forms: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def remember(self, secret: str) -> None:
        """From now on this value is hidden, unless it is too short."""
        with self._lock:
            if secret in self._secrets:
                self._secrets.move_to_end(secret)
                return
            self._secrets[secret] = forms_of(secret)
            if len(self._secrets) > self._most:
                self._secrets.popitem(last=False)
            # The longest first: a secret that begins with another is hidden whole.
            self._forms = tuple(sorted(set().union(*self._secrets.values()), key=len)[::-1])

    def redact(self, text: str) -> str:
        """The text without the secrets in it, and without tokens: Celery logs whole messages."""
        if "eyJ" in text:
            text = _TOKEN.sub(HIDDEN, text)
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return text

    def redact_value(self, value: Any) -> Any:
        """The same for all texts in a value made of dicts, lists and tuples."""
        match value:
            case str():
                return self.redact(value)
            case dict():
                return {self.redact_value(k): self.redact_value(each) for k, each in value.items()}
            case list() | tuple():
                return [self.redact_value(each) for each in value]
        return value


_memory = Memory()
remember, redact, redact_value = _memory.remember, _memory.redact, _memory.redact_value
