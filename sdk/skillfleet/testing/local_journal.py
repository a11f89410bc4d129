"""The journal of a local run: in memory, for one context after another."""

import asyncio
import hashlib
import hmac
import os
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from skillfleet.contracts import RecordedStep, Wait, WaitKind
from skillfleet.errors import (
    InvalidResultError,
    JournalFullError,
    LimitExceededError,
    UnknownWaitError,
    WaitConflictError,
)
from skillfleet.jsonable import to_json
from skillfleet.ports.journal import Decision, Entry, WaitSpec

_INLINE_BYTES: Final = 32 * 1024
_MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_WAITS: Final = 100


@dataclass(eq=False)
class LocalWait:
    """An open wait of a local run."""

    id: str
    spec: WaitSpec
    opened: float
    decision: Decision | None = None

    @property
    def expires(self) -> float | None:
        """The time at which it expires, in seconds since the epoch."""
        seconds = self.spec.seconds
        return None if seconds is None else self.opened + seconds

    def shown(self, run_id: str) -> Wait:
        """Return the wait as its readers get it."""
        expires_ms = None if self.expires is None else self.expires * 1000
        return self.spec.shown(self.id, run_id, self.opened * 1000, expires_ms)


class LocalJournal:
    """The journal, the open waits and the inbox of a local run.

    Pass the journal of one `LocalRunContext` to another one, which then continues the run as its
    next attempt: `LocalRunContext(auth=..., journal=former.journal)`.

    Entries and decisions refer to secret answers by a keyed digest. The answers themselves are in
    memory only: a journal that is pickled or copied has none.
    """

    def __init__(self, inbox: Iterable[Any] = ()) -> None:
        self.entries: dict[str, Entry] = {}
        """What is recorded, by identity."""
        self.emitted: dict[str, int] = {}
        """The number of events by address."""
        self.waits: dict[str, LocalWait] = {}
        """The waits that have no entry yet, by id."""
        self.inbox = deque(orjson.dumps(to_json(message).plain) for message in inbox)
        """The unread messages, as JSON."""
        self.attempts = 0
        """The number of the last attempt."""
        self.token = 0
        """The right to write: that of the last attempt."""
        self.unfinished: set[str] = set()
        """The steps that have emitted events and are not recorded."""
        self._changed = asyncio.Event()
        self._values: dict[str, bytes] = {}
        self._secret_answers: dict[str, bytes] = {}
        self._secret_key = os.urandom(32)
        self._last_wait = 0
        self._size = 0

    @property
    def exists(self) -> bool:
        """True once there is anything to continue from."""
        return bool(self.entries or self.emitted or self.waits)

    def steps(self) -> list[RecordedStep]:
        """Return the recorded entries in order, as `run.steps()` does."""
        return [entry.shown() for entry in sorted(self.entries.values(), key=lambda e: e.number)]

    def drop(self, identities: Iterable[str]) -> None:
        """Drop entries, so that the next attempt makes them again."""
        for identity in identities:
            dropped = self.entries.pop(identity, None)
            self._size -= 0 if dropped is None else dropped.size

    def add(self, entry: Entry, emitted: Mapping[str, int]) -> None:
        """Record an entry, once."""
        if entry.identity not in self.entries:
            size = self._size + entry.size
            if size > _MOST_BYTES:
                raise JournalFullError(f"the journal would hold {size} bytes: {_MOST_BYTES} fit")
            self._size = size
            self.entries[entry.identity] = self._kept(entry)
        self.unfinished.discard(entry.identity)
        self.count(emitted)

    def count(self, emitted: Mapping[str, int]) -> None:
        """Take over counts of events: none goes down."""
        for address, number in emitted.items():
            self.emitted[address] = max(number, self.emitted.get(address, 0))

    def value(self, entry: Entry) -> bytes:
        """Return a value that is kept apart."""
        return self._values[entry.digest]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without secret answers: copies may be written to a disk."""
        return self.__dict__ | {"_secret_answers": {}, "_secret_key": os.urandom(32)}

    def kept_answer(self, spec: WaitSpec, value: Any) -> bytes:
        """Return what is kept of an answer: its JSON, or the reference to a secret one."""
        encoded = orjson.dumps(to_json(value).plain, option=orjson.OPT_SORT_KEYS)
        if not spec.secret:
            return encoded
        reference = hmac.digest(self._secret_key, encoded, "sha256").hex()
        self._secret_answers[reference] = encoded
        return orjson.dumps({"secret": reference})

    def revealed(self, kept: bytes) -> bytes:
        """Return the JSON of a secret answer; raises `InvalidResultError`."""
        try:
            return self._secret_answers[orjson.loads(kept)["secret"]]
        except (ValueError, TypeError, KeyError):
            raise InvalidResultError("the secret answer is not in this journal any more") from None

    def open(self, spec: WaitSpec, at: float) -> tuple[LocalWait, bool]:
        """Return the wait of that identity, and whether it is new."""
        for wait in self.waits.values():
            if wait.spec.identity == spec.identity:
                return wait, False
        if len(self.waits) >= _MOST_WAITS:
            raise LimitExceededError(f"a run has at most {_MOST_WAITS} open waits")
        self._last_wait += 1
        wait = LocalWait(str(self._last_wait), spec, at)
        self.waits[wait.id] = wait
        return wait, True

    def find(self, wait: str | None) -> LocalWait:
        """Return an open question by id, key or text; None: the only one."""
        asked = [each for each in self.waits.values() if each.spec.kind is WaitKind.ASK]
        if wait is None:
            found = [each for each in asked if each.decision is None]
        else:
            found = [each for each in asked if wait in (each.id, *_names(each.spec))]
        if len(found) != 1:
            known = ", ".join(f"{each.id}: {each.spec.question}" for each in asked) or "none"
            raise UnknownWaitError(f"no such open question, or several; open are: {known}")
        return found[0]

    def decide(self, wait: LocalWait, decision: Decision) -> None:
        """Decide a wait, once; the same decision again is fine."""
        if wait.decision is not None and wait.decision != decision:
            raise WaitConflictError(f"wait {wait.id} was decided before in another way")
        wait.decision = decision
        self.notify()

    def put(self, message: Any) -> None:
        """Append an inbox message."""
        self.inbox.append(orjson.dumps(to_json(message).plain))
        self.notify()

    def notify(self) -> None:
        """Wake up the tasks that wait for a change, whose event loop may have ended."""
        self._changed.set()
        self._changed = asyncio.Event()

    def changed(self) -> Coroutine[Any, Any, object]:
        """Return what to await for the next change: a decision, or a message."""
        return self._changed.wait()

    def _kept(self, entry: Entry) -> Entry:
        if entry.value is None or len(entry.value) <= _INLINE_BYTES:
            return entry
        digest = hashlib.sha256(entry.value).hexdigest()
        self._values[digest] = entry.value
        return replace(entry, value=None, digest=digest)


def _names(spec: WaitSpec) -> tuple[str, ...]:
    return (spec.name, spec.question) if spec.name else (spec.question,)
