"""The journal of one attempt: what earlier attempts recorded, and what this one adds."""

import asyncio
import time
from collections import defaultdict
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from skillfleet.contracts import EntryKind
from skillfleet.durable import identity as identities
from skillfleet.durable.position import Positions, Task
from skillfleet.errors import IdempotencyConflictError, StepKeyRequired
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.journal import (
    Emission,
    Entry,
    EntryFailure,
    JournalStore,
    Recorded,
    WaitSpec,
)

T = TypeVar("T")
_MOST_NAMED: Final = 5
_Equal = tuple[EntryKind, str, str]  # kind, name and digest


class JournalOwner(Protocol):
    """The part of a run context that a journal needs."""

    @property
    def attempt(self) -> int:
        """The number of the attempt."""

    def _journal_store(self) -> JournalStore: ...


@dataclass(frozen=True, slots=True)
class Started:
    """An entry that is being made: its identity, and the time of its start."""

    identity: str
    kind: EntryKind
    name: str
    at_ms: int
    at: float


class Journal:
    """The rules of one attempt's journal. Belongs to the handler's loop.

    Runtimes read `unused`, `failures_in` and `replayed` after the handler's end.
    """

    def __init__(self, store: JournalStore, attempt: int) -> None:
        self.store: Final = store
        self.positions: Final = Positions()
        self.loaded = not store.exists
        """True once nothing has to be read before the next event."""
        self.replayed = 0
        """The number of entries of earlier attempts that this one has asked for."""
        self._attempt = attempt
        self._exists = False
        self._entries: dict[str, Entry] = {}
        self._unasked: dict[str, Entry] = {}
        self._waits: set[str] = set()
        self._opened: Mapping[str, int] = {}
        self._tries: dict[str, int] = {}
        self._pauses: dict[str, int] = {}
        self._paused: set[str] = set()
        self._last_number = 0
        self._recorded: set[str] = set()
        self._emitted: Mapping[str, int] = {}
        self._counts: dict[str, int] = {}
        self._uncounted: set[str] = set()
        self._emitting: dict[str, int] = {}
        self._trying: dict[str, int] = {}
        self._called: defaultdict[tuple[str, int, str], int] = defaultdict(int)
        self._asked: dict[_Equal, ref[Task]] = {}
        self._same: defaultdict[_Equal, int] = defaultdict(int)
        self._names: dict[str, tuple[str, str]] = {}

    # Each run that emits an event has a journal: what only steps need is made for steps.

    @cached_property
    def _locks(self) -> "WeakValueDictionary[str, asyncio.Lock]":
        return WeakValueDictionary()

    @cached_property
    def _loading(self) -> asyncio.Lock:
        return asyncio.Lock()

    @cached_property
    def _raised(self) -> "WeakKeyDictionary[BaseException, str]":
        return WeakKeyDictionary()

    # Reading.

    async def load(self) -> None:
        """Read what earlier attempts recorded; once."""
        if self.loaded:
            return
        async with self._loading:
            if not self.loaded:
                self._take(await self.store.load())

    def _take(self, recorded: Recorded) -> None:
        self._entries = {entry.identity: entry for entry in recorded.entries}
        for identity in self._entries:
            self._note_pause(identity)
        self._opened = recorded.waits
        self._waits = set(recorded.waits)
        self._pauses = dict(filter(None, map(identities.read_backoff, self._waits)))
        self._emitted = recorded.emitted
        self._recorded = set(self._entries)
        self._last_number = max((entry.number for entry in recorded.entries), default=0)
        self._unasked = {
            identity: entry
            for identity, entry in self._entries.items()
            if identity not in self._paused
        }
        self._exists = self.loaded = True

    @property
    def recorded(self) -> int:
        """The number of the last entry of this run, recorded or being recorded; 0 without one."""
        return self._last_number

    def has_entry(self, identity: str) -> bool:
        """Return whether the entry of that identity is recorded."""
        return identity in self._recorded

    @property
    def keeps_calls(self) -> bool:
        """True if calls of other agents are entries."""
        return self._exists or self.store.durable

    def find(self, identity: str) -> Entry | None:
        """Return the recorded entry of an identity, which is asked for now."""
        if self._unasked.pop(identity, None) is not None:
            self.replayed += 1
        if identities.is_keyed(identity):
            return self._entries.get(identity)
        # No task asks for it again in this attempt: its value need not stay in memory.
        return self._entries.pop(identity, None)

    def pass_over(self, prefix: str) -> None:
        """Do not expect that entries with this prefix are asked for again in this attempt."""
        self._unasked = {
            identity: entry
            for identity, entry in self._unasked.items()
            if not identity.startswith(prefix)
        }

    def claim_wait(self, identity: str) -> bool:
        """Return whether an earlier attempt opened that wait, which is asked for now."""
        found = identity in self._waits
        self._waits.discard(identity)
        return found

    def has_waits(self, prefix: str) -> bool:
        """Return whether waits that begin with `prefix` have not been asked for in this attempt."""
        return any(identity.startswith(prefix) for identity in self._waits)

    def pending_pause(self, identity: str) -> int | None:
        """Return after how many tries a step was pausing when its attempt ended; else None."""
        return self._pauses.get(identity)

    def failed_tries(self, identity: str) -> int:
        """Return how many tries of a step earlier attempts know to have failed."""
        return self._tries.get(identity, 0)

    async def value(self, entry: Entry) -> bytes:
        """Return the JSON of an entry's value."""
        return entry.value if entry.value is not None else await self.store.value(entry)

    # Asking.

    def asking(
        self, kind: EntryKind, name: str, key: str | None, digest: str
    ) -> AbstractAsyncContextManager[str]:
        """Return a context manager for an entry that the handler asks for; its value: the identity.

        Equal keys take turns. Raises `StepKeyRequired` where equal entries without a key could be
        mistaken for each other, and `IdempotencyConflictError` for a key that names something else.
        """
        if key is None:
            return _Turn(self, self._counted((kind, name, digest)), None)
        identity = identities.keyed(kind, key, digest if kind is EntryKind.ASK else "")
        self._check_key(identity, key, name, digest if kind is EntryKind.CALL else "")
        return _Turn(self, identity, self._locks.setdefault(identity, asyncio.Lock()))

    def _counted(self, equal: _Equal) -> str:
        last = self._asked[equal]() if equal in self._asked else None
        task = asyncio.current_task()
        if last is not None and last is not task and not last.done():
            kind, name, _ = equal
            raise StepKeyRequired(
                f"two tasks ask for an equal {kind} {name!r}, which a later attempt could not"
                " distinguish: pass key="
            )
        if task is not None:
            self._asked[equal] = ref(task)
        return identities.counted(*equal, self.count(*equal))

    def count(self, kind: EntryKind, name: str, digest: str) -> int:
        """Count an entry among equals in the order of their start, from 1."""
        equal = (kind, name, digest)
        self._same[equal] += 1
        return self._same[equal]

    def _check_key(self, identity: str, key: str, name: str, digest: str) -> None:
        identities.check_name("key", key)
        if self._names.setdefault(identity, (name, digest)) != (name, digest):
            raise IdempotencyConflictError(
                f"key {key!r} was used before in this run for {self._names[identity][0]!r} or with"
                " other arguments: use one key for each"
            )

    # Writing.

    def start(self, identity: str, kind: EntryKind, name: str) -> Started:
        """Return the start of an entry; that of a wait is when an earlier attempt opened it."""
        now_ms = time.time_ns() // 1_000_000
        at_ms = min(self._opened.get(identity, now_ms), now_ms)
        return Started(identity, kind, name, at_ms, time.monotonic() - (now_ms - at_ms) / 1000)

    def entry(
        self,
        started: Started,
        value: bytes | None = None,
        failure: EntryFailure | None = None,
        tries: int = 1,
    ) -> Entry:
        """Return the entry of what has just ended."""
        self._last_number += 1
        return Entry(
            identity=started.identity,
            number=self._last_number,
            kind=started.kind,
            name=started.name,
            attempt=self._attempt,
            started_ms=started.at_ms,
            duration_ms=round((time.monotonic() - started.at) * 1000),
            value=value,
            size=len(value or b""),
            failure=failure,
            tries=tries,
        )

    async def begin(self) -> None:
        """Begin to keep a journal: no later attempt repeats the events before the first step."""
        if self._exists:
            return
        # From now on events bring their counts themselves.
        self._exists = True
        if self._uncounted:
            await self._write(self.store.begin)

    async def record(self, entry: Entry, wait_id: str | None = None) -> None:
        """Record an entry, and close its wait; a cancelled caller waits for the end of the write.

        Otherwise it would not be known whether the entry exists.
        """

        async def write() -> None:
            await self._write(lambda emitted: self.store.record(entry, emitted, wait_id))
            self._recorded.add(entry.identity)
            if identities.is_keyed(entry.identity):
                self._entries[entry.identity] = entry
            self._note_pause(entry.identity)

        await _uninterrupted(write(), self.store)

    async def open_wait(self, spec: WaitSpec) -> str:
        """Open a wait, or find it; return its id."""
        self._waits.discard(spec.identity)
        return await self._write(lambda emitted: self.store.open_wait(spec, emitted))

    async def receive(self, entry: Entry, spec: WaitSpec) -> bytes | None:
        """Take the next inbox message, which becomes the value of `entry`; None in time without."""
        self._waits.discard(spec.identity)
        return await self._write(lambda emitted: self.store.receive(entry, spec, emitted))

    async def withdraw(self, prefix: str) -> None:
        """Withdraw waits of earlier attempts that begin with `prefix` and are not asked for.

        Only where no other task may ask for them: `prefix` names a key, or the task is alone.
        """
        for identity in sorted(self._waits):
            if identity.startswith(prefix):
                self._waits.discard(identity)
                await self.store.withdraw_wait(identity)

    async def _write(self, write: Callable[[Mapping[str, int]], Awaitable[T]]) -> T:
        addresses, self._uncounted = self._uncounted, set()
        try:
            result = await write({address: self._counts[address] for address in addresses})
        except BaseException:
            self._uncounted |= addresses
            raise
        self._exists = True
        return result

    def _note_pause(self, identity: str) -> None:
        """Note the end of a pause between two tries of a step."""
        backoff = identities.read_backoff(identity)
        if backoff is not None:
            step, tries = backoff
            self._tries[step] = max(tries, self._tries.get(step, 0))
            self._paused.add(identity)

    def passed(self, entry: Entry) -> None:
        """Move the current task past an entry, to the address of its next events.

        What follows a failure has an address of its own: the failure may be dropped.
        """
        failed = entry.failure is not None
        address = f"!{entry.attempt}@{entry.identity}" if failed else entry.identity
        self.positions.passed(address)

    # Events.

    def place_event(self) -> tuple[bool, Emission | None]:
        """Count an event; return whether the stream has it already, and its place."""
        position = self.positions.current()
        step = position.step
        if step is not None:
            if step not in self._emitting:
                # A task that outlives its step.
                return False, None
            self._emitting[step] += 1
            return False, Emission(None, 0, step)
        address = position.address
        ordinal = self._counts.get(address, 0)
        self._counts[address] = ordinal + 1
        if not self._exists:
            # The first step, or wait, brings the count.
            self._uncounted.add(address)
            return False, None
        if ordinal < self._emitted.get(address, 0):
            return True, None
        return False, Emission(address, ordinal, None)

    def begin_try(self, identity: str, tries: int) -> None:
        """Begin a try of a step: what is emitted in it belongs to the step."""
        self._emitting[identity] = 0
        self._trying[identity] = tries

    def call_key(self, step: str, digest: str) -> str:
        """Return the key of a call without one that is made inside of a step, the same again."""
        tries = self._trying.get(step, 0)
        self._called[step, tries, digest] += 1
        return f"{step}!{tries}#{digest}#{self._called[step, tries, digest]}"

    def end_try(self, identity: str) -> bool:
        """End a try of a step; return whether it emitted events."""
        self._trying.pop(identity, None)
        return self._emitting.pop(identity, 0) > 0

    # The handler's end.

    def raised(self, error: BaseException, identity: str) -> None:
        """Note that `error` is the failure of an entry, for `failures_in`."""
        self._raised[error] = identity

    def failures_in(self, error: BaseException) -> tuple[str, ...]:
        """Return the identities of the failed entries that `error`, which left the handler, is of.

        Also of those that are its explicit cause (`raise ... from`). A retry drops them, so that
        it executes them again.
        """
        found: dict[str, None] = {}
        waiting, seen = [error], set()
        while waiting:
            each = waiting.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            if each in self._raised:
                step = self._raised[each]
                found[step] = None
                found.update(dict.fromkeys(self._backoffs(step)))
            if isinstance(each, BaseExceptionGroup):
                waiting.extend(each.exceptions)
            if each.__cause__ is not None:
                waiting.append(each.__cause__)
        return tuple(found)

    def _backoffs(self, step: str) -> Iterator[str]:
        for tries in range(1, self._tries.get(step, 0) + 1):
            identity = identities.backoff_of(step, tries)
            if identity in self._paused:
                yield identity

    async def unused(self) -> tuple[Entry, ...]:
        """Return the entries of earlier attempts that this attempt has not asked for.

        For handlers that returned: they took another way than before.
        """
        if not self.loaded:
            await self.load()
        return tuple(sorted(self._unasked.values(), key=lambda entry: entry.number))


class _Turn(AbstractAsyncContextManager[str]):
    """The block in which a task asks for an entry. A class: each step enters one."""

    __slots__ = ("_identity", "_journal", "_lock")

    def __init__(self, journal: Journal, identity: str, lock: asyncio.Lock | None) -> None:
        """`lock` is held inside the block, where others may ask for the same entry."""
        self._journal = journal
        self._identity = identity
        self._lock = lock

    async def __aenter__(self) -> str:
        if self._lock is not None:
            await self._lock.acquire()
        if not self._journal.loaded:
            try:
                await self._journal.load()
            except BaseException:
                self._release()
                raise
        return self._identity

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


_journals: Final[HiddenState[Journal]] = HiddenState()


def journal_of(context: JournalOwner) -> Journal:
    """Return the journal of a context's attempt."""
    try:
        return _journals.of(context)
    except KeyError:
        return begin_journal(context)


def step_of(context: JournalOwner) -> str | None:
    """Return the identity of the step that executes here; None outside. Begins no journal."""
    try:
        return _journals.of(context).positions.step
    except KeyError:
        return None


def begin_journal(context: JournalOwner) -> Journal:
    """Return a new journal, for the next attempt of a context that is used for several."""
    journal = Journal(context._journal_store(), context.attempt)  # noqa: SLF001 - for runtimes
    _journals.attach(context, journal)
    return journal


def mismatch(unused: Sequence[Entry]) -> str | None:
    """Return the message about `Journal.unused` of a handler that returned; None without any."""
    if not unused:
        return None
    named = ", ".join(f"{entry.kind} {entry.name!r}" for entry in unused[:_MOST_NAMED])
    rest = len(unused) - _MOST_NAMED
    return (
        f"the handler did not ask for {len(unused)} recorded entries of an earlier attempt"
        f" ({named}{f' and {rest} more' if rest > 0 else ''}): it took another way; what decides"
        " the way belongs in steps"
    )


async def _uninterrupted(work: Coroutine[Any, Any, T], store: JournalStore) -> T:
    """Await `work`; a cancelled caller waits for its end before the cancellation continues.

    It does not where the attempt cannot write any more: its handler has to stop at once.
    """
    task = asyncio.get_running_loop().create_task(work)
    # A caller that does not wait does not read its error, which the loop would log then.
    task.add_done_callback(_read_error)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not store.is_cut_off:
            await asyncio.wait({task})
        raise


def _read_error(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
