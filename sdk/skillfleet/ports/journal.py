"""Journal: the port through which a runtime stores a run's steps and waits.

`skillfleet.durable` holds the rules (the identity of an entry, what is replayed, what is refused);
a store only keeps entries and waits. Everything it writes is fenced by the attempt's lease.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from skillfleet.contracts.waits import EntryKind, WaitKind, WaitOutcome


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """The final failure of a step: the name of the error's type, its code, its message."""

    type: str
    code: str
    message: str


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


@dataclass(frozen=True, slots=True)
class Recorded:
    """What earlier attempts have recorded: entries by number, and events by address.

    `emitted` maps the address of events (`skillfleet.durable`) to how many of them are in the
    stream.
    """

    entries: Sequence[Entry] = ()
    emitted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WaitSpec:
    """A wait as the handler asks for it.

    A wait of an earlier attempt is the same one only when `identity`, `kind`, `question` and
    `schema` agree. `seconds` is the time until it expires; None: the runtime's maximum.
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


@dataclass(frozen=True, slots=True)
class Decision:
    """How a wait ended. `value` is the JSON of an answer, `by` who gave it.

    `token` proves who gave it, where the fleet requires that.
    """

    outcome: WaitOutcome
    value: bytes = b"null"
    reason: str = ""
    by: str = ""
    token: str = field(default="", repr=False)


class JournalStore(ABC):
    """The journal of one run, for one attempt.

    Concurrency: the loop of the handler; any number of calls at once. All methods raise
    `LeaseLostError`-like errors of the runtime when the attempt may no longer write, and
    `FleetUnavailableError` when the store stays unavailable.
    """

    @abstractmethod
    async def load(self) -> Recorded:
        """Return what earlier attempts have recorded. Called once, before the first entry."""

    @abstractmethod
    async def value(self, entry: Entry) -> bytes:
        """Return the JSON of an entry's value that is kept apart."""

    @abstractmethod
    async def record(
        self, entry: Entry, emitted: Mapping[str, int], wait_id: str | None = None
    ) -> None:
        """Record an entry once, after all events that were accepted before; close its wait.

        `emitted` has the counts of events by address that changed since the last entry. Safe to
        repeat. Raises `JournalFullError`.
        """

    @abstractmethod
    async def open_wait(self, spec: WaitSpec) -> str:
        """Open a wait, or find the open one of an earlier attempt; return its id.

        An earlier wait of that identity that asks for something else is withdrawn. Raises
        `LimitExceededError` when the run has too many open waits.
        """

    @abstractmethod
    async def decision(self, wait_id: str) -> Decision:
        """Wait until the wait is decided, and return how. The run may be parked meanwhile."""

    @abstractmethod
    async def reopen_wait(self, wait_id: str, reason: str) -> None:
        """Drop the decision of a wait, which turned out to be invalid, and wait again."""

    @abstractmethod
    async def receive(self, entry: Entry, spec: WaitSpec) -> bytes | None:
        """Take the next inbox message and record it as the value of `entry`; JSON.

        Waits for one until `spec` expires; None then, which is recorded as well (value `null`,
        failure type `WaitTimedOut`).
        """

    @abstractmethod
    def busy(self) -> AbstractContextManager[None]:
        """Keep the run from being parked inside the block: work is under way."""


JournalOpener = Callable[[], JournalStore]
