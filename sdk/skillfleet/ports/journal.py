"""Journal: the port through which a runtime stores a run's steps and waits.

`skillfleet.durable` holds the rules (the identity of an entry, what is replayed, what is refused);
a store only keeps entries and waits. Everything it writes is fenced by the attempt's lease.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from skillfleet.contracts.events import from_millis
from skillfleet.contracts.waits import (
    AnswerKey,
    EntryKind,
    RecordedStep,
    Wait,
    WaitKind,
    WaitOutcome,
)


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """The final failure of a step: the name of the error's type, its code, its message.

    `by` is who rejected a question; `retryable` says whether the run may be retried after it.
    """

    type: str
    code: str
    message: str
    by: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A recorded entry: the result or the final failure of a step, wait or call.

    `identity` names the entry in its run. `number` counts the entries of the run from 1.
    `value` is the JSON of the result; None for a failure, and for a value that the store keeps
    apart, which `JournalStore.value` reads. `size` is the number of bytes of the JSON.
    """

    identity: str
    number: int
    kind: EntryKind
    name: str
    attempt: int
    started_ms: int
    duration_ms: int
    value: bytes | None = None
    size: int = 0
    digest: str = ""
    """SHA-256 of a value that is kept apart, in hexadecimal digits."""
    failure: EntryFailure | None = None
    tries: int = 1

    def shown(self) -> RecordedStep:
        """Return the entry as its readers get it."""
        failure = self.failure
        return RecordedStep(
            number=self.number,
            kind=self.kind,
            name=self.name,
            attempt=self.attempt,
            started_at=from_millis(self.started_ms),
            duration_seconds=self.duration_ms / 1000,
            size_bytes=self.size,
            outcome="failed" if failure else "succeeded",
            code=failure.code if failure else None,
            message=failure.message if failure else None,
            tries=self.tries,
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """The record of earlier attempts: entries by number, events by address, open waits.

    `emitted` maps the address of events (`skillfleet.durable`) to how many of them are in the
    stream. `waits` maps the identity of each wait that has no entry yet, decided or not, to
    the time of its opening, in milliseconds since the epoch.
    """

    entries: Sequence[Entry] = ()
    emitted: Mapping[str, int] = field(default_factory=dict)
    waits: Mapping[str, int] = field(default_factory=dict)


class Emission(NamedTuple):
    """The place of an event in its run, which a store keeps with the event.

    Outside of steps it is number `ordinal` (from 0) of the events at `address`: once the event is
    in the stream, `Recorded.emitted[address]` is `ordinal + 1`. Inside of a step `address` is
    None and `step` the identity of the step's entry: if the step is not recorded when the next
    attempt begins, the event is void (`SUPERSEDED_KIND`).
    """

    address: str | None
    ordinal: int
    step: str | None


@dataclass(frozen=True, slots=True)
class WaitSpec:
    """A wait as the handler asks for it.

    The identity contains a digest of kind, question and schema: a wait of an earlier attempt with
    the same identity asks for the same. `seconds` is the time until it expires; None: the
    runtime's maximum.
    """

    identity: str
    kind: WaitKind
    name: str = ""
    question: str = ""
    schema: Mapping[str, Any] | None = None
    scopes: tuple[str, ...] = ()
    seconds: float | None = None
    call: str = ""
    """The id of the child run, for `WaitKind.CALL`."""
    secret: bool = False
    """True for a question whose answer is secret: the store keeps none that can be read."""
    answer_key: AnswerKey | None = None
    """The key that the store gives to those who answer with a secret, if they need one."""

    def shown(self, wait_id: str, run_id: str, opened_ms: float, expires_ms: float | None) -> Wait:
        """Return the wait as its readers get it; times are milliseconds since the epoch."""
        return Wait(
            id=wait_id,
            run_id=run_id,
            kind=self.kind,
            name=self.name,
            question=self.question,
            value_schema=None if self.schema is None else dict(self.schema),
            scopes=self.scopes,
            answer_key=self.answer_key,
            opened_at=from_millis(opened_ms),
            expires_at=None if expires_ms is None else from_millis(expires_ms),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The end of a wait. `value` is the JSON of an answer, `by` who gave it.

    The value of a secret answer is what the store keeps of it, which `JournalStore.reveal` reads.

    `token` proves who gave it, where the fleet requires that.
    """

    outcome: WaitOutcome
    value: bytes = b"null"
    reason: str = ""
    by: str = ""
    token: str = field(default="", repr=False)


class JournalStore(ABC):
    """The journal of one run, for one attempt.

    Counts of events that come with a write (`emitted`) are of addresses with events that had no
    `Emission`, as the run had no journal yet. Writes may overtake each other: a stored count never
    goes down.

    Concurrency: the loop of the handler; any number of calls at once. All methods raise
    `LeaseLostError`-like errors of the runtime when the attempt may no longer write, and
    `FleetUnavailableError` when the store stays unavailable.
    """

    @property
    @abstractmethod
    def exists(self) -> bool:
        """True if earlier attempts left entries, waits or counts of events; else none is loaded."""

    @property
    @abstractmethod
    def durable(self) -> bool:
        """True for a run that may be parked: its calls are entries from the start."""

    @property
    def is_cut_off(self) -> bool:
        """True once the attempt cannot write any more: no write that is under way is waited for."""
        return False

    @abstractmethod
    async def load(self) -> Recorded:
        """Return what earlier attempts have recorded. Called at most once, before the first use."""

    @abstractmethod
    async def value(self, entry: Entry) -> bytes:
        """Return the JSON of an entry's value that is kept apart."""

    @abstractmethod
    async def begin(self, emitted: Mapping[str, int]) -> None:
        """Note the counts of events before the first step, after all that were accepted before.

        Called before that step is executed. Safe to repeat.
        """

    @abstractmethod
    async def record(
        self, entry: Entry, emitted: Mapping[str, int], wait_id: str | None = None
    ) -> None:
        """Record an entry once, after all events that were accepted before; close its wait.

        Events of the step that the entry is of are valid from now on. Safe to repeat. Raises
        `JournalFullError`.
        """

    @abstractmethod
    async def open_wait(self, spec: WaitSpec, emitted: Mapping[str, int]) -> str:
        """Open a wait, or find that of an earlier attempt with this identity; return its id.

        It is opened after all events that were accepted before. Raises `LimitExceededError` when
        the run has too many open waits, and `InvalidArgumentsError` for a secret answer where
        nothing could read it.
        """

    @abstractmethod
    async def decision(self, wait_id: str) -> Decision:
        """Wait until the wait is decided, and return how. The run may be parked meanwhile.

        A `WaitKind.CALL` is decided by the end of the child, with any outcome. Cancelling the
        call while the attempt continues gives the wait up: the store withdraws it.
        """

    @abstractmethod
    async def reveal(self, value: bytes, wait_id: str | None = None) -> bytes:
        """Return the JSON of a secret answer: of the decision of a wait, or of an entry.

        Raises `InvalidResultError` for a value that cannot be read; its message shows none.
        """

    @abstractmethod
    async def reopen_wait(self, wait_id: str, reason: str) -> None:
        """Drop the decision of a wait, which turned out to be invalid, and wait again."""

    @abstractmethod
    async def withdraw_wait(self, identity: str) -> None:
        """Withdraw a wait of an earlier attempt (`Recorded.waits`) that nothing asks for now.

        One that is decided stays: an answer that was accepted is never lost.
        """

    @abstractmethod
    async def receive(
        self, entry: Entry, spec: WaitSpec, emitted: Mapping[str, int]
    ) -> bytes | None:
        """Take the next inbox message and record it as the value of `entry`; JSON.

        Waits for one until `spec` expires; None then, which is recorded as well (value `null`,
        failure type `WaitTimedOut`).
        """

    @abstractmethod
    def busy(self) -> AbstractContextManager[None]:
        """Keep the run from being parked inside the block: work is under way."""

    def stops_attempt(self, error: BaseException) -> bool:
        """Return whether `error` only reports that the attempt must stop, which is no failure.

        True after a cancellation, a lost lease, a passed deadline or the end of a drain.
        """
        del error
        return False
