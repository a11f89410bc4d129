"""Redaction of secrets: the forms a value may take in text, and the classes that hide them.

One implementation for a worker's log lines, spans, events and outcomes, and for
`LocalRunContext`, so that a test sees what the fleet would show.
"""

import base64
import json
import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, quote_plus

import orjson

from skillfleet.ports.secrets import SHORTEST

HIDDEN: Final = "[secret]"

_SHORTEST_ENCODED = 8
"""Bytes of a secret whose Base64 and hexadecimal forms are hidden: shorter ones occur by chance."""
_MAX_SECRETS = 1000
_VALUES_PER_NAME = 8
_PERCENT = re.compile("%[0-9A-F]{2}")
_TOKEN = re.compile(r"eyJ(?:hbGciOi|0eXAiOi|raWQiOi)[\w.-]*")
"""A JSON Web Token, or the beginning of one: {"alg": {"typ": or {"kid": in Base64."""
_TOKEN_START = "eyJ"  # noqa: S105 - not a password


def secret_forms(secret: str) -> frozenset[str]:
    """Return the texts that carry a secret: verbatim, JSON, Python, URL, Base64 and hexadecimal.

    JSON and Python also within each other: the arguments of a tool call are JSON in JSON. Empty
    for a secret that is too short to be hidden.
    """
    if len(secret) < SHORTEST:
        return frozenset()
    once = {secret, *_in_json(secret), *_in_python(secret)}
    twice = {again for form in once for again in (*_in_json(form), *_in_python(form))}
    quoted = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    quoted |= {_PERCENT.sub(lambda found: found[0].lower(), form) for form in quoted}
    return frozenset({*once, *twice, *quoted, *_encoded(secret.encode())})


def redact_values(value: Any, redact: Callable[[str], str]) -> Any:
    """Apply `redact` to every string of a JSON value, including field names and numbers."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {
                redact_values(name, redact): redact_values(item, redact)
                for name, item in value.items()
            }
        case list() | tuple():
            return [redact_values(item, redact) for item in value]
        case int() | float() if not isinstance(value, bool):
            return value if redact(str(value)) == str(value) else HIDDEN
    return value


class SecretRegistry:
    """The secrets that a process has read recently. Any thread may call its methods."""

    def __init__(self, max_secrets: int = _MAX_SECRETS) -> None:
        self._max_secrets = max_secrets
        self._forms: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._named: defaultdict[str, list[str]] = defaultdict(list)
        self._longest_first: tuple[str, ...] = ()
        self._probes: tuple[str, ...] = ()
        self._json_probes: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def register(self, value: str, name: str = "") -> None:
        """Hide a value from now on, and keep hiding it after its secret was rotated."""
        with self._lock:
            values = self._named[name] if name else []
            if name and values[-1:] != [value]:
                kept = [*(old for old in values if old != value), value]
                self._named[name] = kept[-_VALUES_PER_NAME:]
            if value in self._forms:
                self._forms.move_to_end(value)
                return
            self._forms[value] = secret_forms(value)
            if len(self._forms) > self._max_secrets:
                self._forms.popitem(last=False)
            self._compile()

    def values(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the present and recent values of the secrets of these names."""
        return tuple(value for name in names for value in self._named.get(name, ()))

    def redact(self, text: str) -> str:
        """Return the text without registered secrets and without JSON Web Tokens."""
        if _TOKEN_START in text:
            text = _TOKEN.sub(HIDDEN, text)
        if _occurs(self._probes, text):
            for form in self._longest_first:
                text = text.replace(form, HIDDEN)
        return text

    def redact_value(self, value: Any) -> Any:
        """Redact every text in a value made of dicts, lists, tuples and scalars."""
        return redact_values(value, self.redact)

    def may_occur_in_json(self, document: str) -> bool:
        """Return whether a JSON document may hold a secret or a token; False is certain.

        One pass over a whole document, instead of one over each of its values.
        """
        return _TOKEN_START in document or _occurs(self._json_probes, document)

    def _compile(self) -> None:
        every: set[str] = set().union(*self._forms.values())
        # The longest first: a secret that begins with another is hidden whole.
        self._longest_first = tuple(sorted(every, key=len)[::-1])
        self._probes = tuple({probe for value in self._forms for probe in _probes(value)})
        self._json_probes = tuple({form for probe in self._probes for form in _in_json(probe)})


class Redactor:
    """The redactor for the secrets that a run declares. Belongs to its handler's loop."""

    def __init__(self, names: tuple[str, ...], registry: SecretRegistry) -> None:
        self._names = names
        self._registry = registry
        self._learned: tuple[str, ...] = ()
        self._pending = ""
        self._sent = 0

    @property
    def active(self) -> bool:
        """True if there is anything to hide."""
        return self._pattern() is not None

    def learn(self, values: Iterable[str]) -> None:
        """Hide these values, too, which no declared secret has."""
        self._learned = tuple(dict.fromkeys((*self._learned, *values)))

    def redact(self, text: str) -> str:
        """Return the text with `HIDDEN` in place of each secret."""
        pattern = self._pattern()
        return text if pattern is None else pattern.sub(HIDDEN, text)

    def redact_value(self, value: Any) -> Any:
        """Redact every text in a JSON value."""
        return value if self._pattern() is None else redact_values(value, self.redact)

    def redact_json(self, document: bytes) -> bytes:
        """Redact every text in a JSON document."""
        if self._pattern() is None:
            return document
        return orjson.dumps(self.redact_value(orjson.loads(document)))

    def occurs_in(self, value: Any) -> bool:
        """Return whether a value of any type holds a secret."""
        if not self.active:
            return False
        plain = orjson.loads(orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS))
        return bool(self.redact_value(plain) != plain)

    def feed(self, piece: str) -> str:
        """Take the next piece of a streamed text and return the part that can be shown.

        The start of a possible secret is held back until the next piece, or `flush`, decides.
        """
        pattern = self._pattern()
        if pattern is None:
            return piece
        text = self._pending + piece
        shown, position = [], 0
        for match in pattern.finditer(text):
            if match.end() == len(text) and self._held(match[0]) == len(match[0]):
                break
            shown += [text[max(position, self._sent) : match.start()], HIDDEN]
            position = match.end()
        kept = len(text) - self._held(text[position:])
        shown.append(text[max(position, self._sent) : kept])
        self._pending, self._sent = text[kept:], max(self._sent - kept, 0)
        return "".join(shown)

    def flush(self, *, pausing: bool = False) -> str:
        """Return what `feed` holds back; the text may continue later.

        A secret that continues after all is still recognised, and a near-complete prefix is
        redacted too. While `pausing`, any longer prefix is held back, so that a slow writer
        does not reveal half of a secret.
        """
        if pausing and len(self._pending) >= SHORTEST:
            return ""
        held = self._pending[self._sent :]
        self._sent = len(self._pending)
        if any(
            form.startswith(self._pending) and 2 * len(self._pending) >= len(form)
            for form in self._forms()
        ):
            return HIDDEN if held else ""
        return self.redact(held)

    @property
    def holds_text(self) -> bool:
        """True while `flush` has something to return."""
        return len(self._pending) > self._sent

    def _held(self, text: str) -> int:
        """Return the length of the longest end of the text that a longer secret begins with."""
        forms = self._forms()
        longest, firsts = max(map(len, forms), default=1), {form[0] for form in forms}
        for at in range(max(len(text) - longest + 1, 0), len(text)):
            if text[at] in firsts:
                end = text[at:]
                if any(len(form) > len(end) and form.startswith(end) for form in forms):
                    return len(end)
        return 0

    def _forms(self) -> tuple[str, ...]:
        return _forms(self._values)

    def _pattern(self) -> "re.Pattern[str] | None":
        # Each event and step asks: a run without secrets pays for no look at the registry.
        return _pattern(self._values) if self._names or self._learned else None

    @property
    def _values(self) -> tuple[str, ...]:
        return (*self._registry.values(self._names), *self._learned)


@lru_cache(maxsize=256)
def _forms(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return all forms of all values, the longest first."""
    forms = {form for value in values for form in secret_forms(value)}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


@lru_cache(maxsize=256)
def _pattern(values: tuple[str, ...]) -> "re.Pattern[str] | None":
    forms = _forms(values)
    return re.compile("|".join(map(re.escape, forms))) if forms else None


@lru_cache(maxsize=2 * _MAX_SECRETS)
def _probes(value: str) -> tuple[str, ...]:
    """Return the forms of a secret that all others contain: where none occurs, no form does."""
    found: list[str] = []
    for form in sorted(secret_forms(value), key=len):
        if not any(shorter in form for shorter in found):
            found.append(form)
    return tuple(found)


def _occurs(probes: tuple[str, ...], text: str) -> bool:
    # A loop takes half the time of `any` over a generator, for each line of the log.
    for probe in probes:  # noqa: SIM110
        if probe in text:
            return True
    return False


def _in_json(text: str) -> set[str]:
    return {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _in_python(text: str) -> set[str]:
    """Return the forms of a text in a `repr` of a string or bytes, which may escape its quotes."""
    both = "'\""
    found = {repr(text)[1:-1], repr(text + both)[1:-4]}
    return found | {repr(text.encode())[2:-1], repr((text + both).encode())[2:-4]}


def _encoded(secret: bytes) -> set[str]:
    """Return the secret in hexadecimal and Base64, by itself or inside of a longer value."""
    if len(secret) < _SHORTEST_ENCODED:
        return set()
    found = {secret.hex(), secret.hex().upper()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Three bytes make four letters: the offset of the secret among them decides which
        # letters are the secret's alone, and whether padding follows them.
        for before in range(3):
            text = encode(bytes(before) + secret).decode()[-(-before * 8 // 6) :]
            found |= {text, text[: (before + len(secret)) * 8 // 6 - -(-before * 8 // 6)]}
    return found
