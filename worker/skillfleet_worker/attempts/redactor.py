"""Keeping the values of secrets out of everything that a run writes."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson

from skillfleet.ports.secrets import SHORTEST
from skillfleet_telemetry.redaction import HIDDEN, forms_of

_KEPT = 8


class KnownSecrets:
    """The values that a process's secrets have and lately had. Any thread."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[str]] = defaultdict(list)
        self._lock = threading.Lock()

    def learn(self, name: str, value: str) -> None:
        """Know a value that was read, also after the next one has replaced it."""
        values = self._values[name]
        if values[-1:] != [value]:
            with self._lock:
                self._values[name] = [*(old for old in values if old != value), value][-_KEPT:]

    def values(self, names: Iterable[str]) -> tuple[str, ...]:
        """All known values of the secrets of these names."""
        return tuple(value for name in names for value in self._values[name])


class Redactor:
    """Hides the declared secrets of one attempt; belongs to the loop its handler runs on."""

    def __init__(self, names: tuple[str, ...], known: KnownSecrets) -> None:
        self._names = names
        self._known = known
        self._pending = ""
        self._sent = 0

    def text(self, text: str) -> str:
        """The text with `HIDDEN` in place of each secret."""
        pattern = self._pattern()
        return text if pattern is None else pattern.sub(HIDDEN, text)

    def value(self, value: Any) -> Any:
        """The same for all texts in a JSON value, names of fields included."""
        if self._pattern() is None:
            return value
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.value(name): self.value(item) for name, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case int() | float() if not isinstance(value, bool):
                return value if self.text(str(value)) == str(value) else HIDDEN
        return value

    def hides(self, value: Any) -> bool:
        """Whether there is a secret in a value, whatever it is made of."""
        plain = orjson.loads(orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS))
        return bool(self.value(plain) != plain)

    def json(self, payload: bytes) -> bytes:
        """The same for a JSON object."""
        return (
            payload if self._pattern() is None else orjson.dumps(self.value(orjson.loads(payload)))
        )

    def stream(self, piece: str) -> str:
        """The next piece of a streamed text, as far as it may be shown by now.

        What may be the start of a secret is kept until the next piece, or `rest`, shows.
        """
        pattern = self._pattern()
        if pattern is None:
            return piece
        text = self._pending + piece
        shown, position = [], 0
        for match in pattern.finditer(text):
            if match.end() == len(text) and self._kept(match[0]) == len(match[0]):
                break
            shown += [text[max(position, self._sent) : match.start()], HIDDEN]
            position = match.end()
        kept = len(text) - self._kept(text[position:])
        shown.append(text[max(position, self._sent) : kept])
        self._pending, self._sent = text[kept:], max(self._sent - kept, 0)
        return "".join(shown)

    def rest(self, *, pausing: bool = False) -> str:
        """What `stream` kept, to be shown now: the text may go on, but not soon.

        A secret that is continued after all is still recognised, and what is nearly one is
        hidden. Where the text is only `pausing`, what has more than a few letters of a secret
        is kept on: a slow writer shall not tell half of it.
        """
        if pausing and len(self._pending) >= SHORTEST:
            return ""
        kept = self._pending[self._sent :]
        self._sent = len(self._pending)
        if any(
            form.startswith(self._pending) and 2 * len(self._pending) >= len(form)
            for form in self._forms()
        ):
            return HIDDEN if kept else ""
        return self.text(kept)

    @property
    def keeps(self) -> bool:
        """True while `rest` has something to show."""
        return len(self._pending) > self._sent

    def _kept(self, text: str) -> int:
        """The length of the longest end of the text that a secret begins with and goes on."""
        forms = self._forms()
        longest, firsts = max(map(len, forms), default=1), {form[0] for form in forms}
        for at in range(max(len(text) - longest + 1, 0), len(text)):
            if text[at] in firsts:
                end = text[at:]
                if any(len(form) > len(end) and form.startswith(end) for form in forms):
                    return len(end)
        return 0

    def _forms(self) -> tuple[str, ...]:
        return _forms(self._known.values(self._names))

    def _pattern(self) -> "re.Pattern[str] | None":
        return _pattern(self._known.values(self._names))


@lru_cache(maxsize=256)
def _forms(values: tuple[str, ...]) -> tuple[str, ...]:
    """The forms of all values, the longest first."""
    forms = {form for value in values for form in forms_of(value)}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


@lru_cache(maxsize=256)
def _pattern(values: tuple[str, ...]) -> "re.Pattern[str] | None":
    forms = _forms(values)
    return re.compile("|".join(map(re.escape, forms))) if forms else None
