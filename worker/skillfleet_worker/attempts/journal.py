"""Journal of an attempt: its steps and waits in the ledger, under the attempt's lease."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from skillfleet.contracts import AnswerKey, Fork
from skillfleet.contracts.waits import WaitKind, WaitOutcome
from skillfleet.errors import (
    CancelledByCaller,
    FleetUnavailableError,
    InvalidArgumentsError,
    InvalidResultError,
    JournalFullError,
    MissingScopes,
    UnauthorizedError,
    UnknownRunError,
)
from skillfleet.failures import error_text, leaves
from skillfleet.ports.admission import Admission
from skillfleet.ports.journal import (
    Decision,
    Entry,
    EntryFailure,
    JournalStore,
    Recorded,
    WaitSpec,
)
from skillfleet_auth.sealing import AnswerKeys
from skillfleet_engine.celery_hooks.slots import release_slot
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.redis_client.connection import RETRY_SECONDS
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_ledger.runs.journals import INLINE_BYTES
from skillfleet_ledger.runs.records import WriteResult
from skillfleet_ledger.runs.waits import DecideStatus, WaitWrite
from skillfleet_telemetry.metrics import WAIT_DURATION, record
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.inputs import admit_decision, admit_message
from skillfleet_worker.attempts.journal_telemetry import report_entry, report_replayed
from skillfleet_worker.attempts.parking import Parking, ShownWaits
from skillfleet_worker.attempts.stop_request import LOST_TOUCH, WITHOUT_LEASE
from skillfleet_worker.attempts.waiting import WaitingRoom
from skillfleet_worker.settings import WorkerSettings

T = TypeVar("T")
logger = logging.getLogger(__name__)

_EARLY_SECONDS: Final = 0.01
_SKEW_MS: Final = 1000
"""The most that this process's idea of Redis's time is behind it."""
_EXPIRED: Final = Decision(WaitOutcome.EXPIRED)
_CALL_ENDED: Final = Decision(WaitOutcome.ANSWERED)
_NO_MESSAGE: Final = EntryFailure("WaitTimedOut", "wait_timed_out", "no message arrived in time")


@dataclass(slots=True)
class OpenWait:
    """An open wait of the run, as this attempt knows it."""

    id: str
    spec: WaitSpec
    expires_ms: int | None
    decision: Decision | None = None


class JournalServices(Protocol):
    """The services of a process that a journal uses."""

    @property
    def ledger(self) -> Ledger:
        """The store of journals."""

    @property
    def admission(self) -> Admission:
        """Decides who may answer."""

    @property
    def answer_keys(self) -> AnswerKeys | None:
        """The keys that decrypt secret answers."""

    @property
    def settings(self) -> WorkerSettings:
        """Limits and times."""

    @property
    def room(self) -> WaitingRoom:
        """The runs that wait in the memory of the process."""

    @property
    def show_waiting(self) -> Callable[[str, str], None] | None:
        """Shows monitors what a run waits for."""


def _asks_same(one: WaitSpec, other: WaitSpec) -> bool:
    """Return whether two waits of the same identity are the same one."""
    return (one.call, one.answer_key) == (other.call, other.answer_key)


class LedgerJournal(JournalStore):
    """The journal of one attempt's run.

    Belongs to the loop of the handler; what it writes goes through the home loop.
    """

    def __init__(
        self,
        attempt: Attempt,
        events: EventBuffer,
        services: JournalServices,
        write_held_text: Callable[[], Awaitable[None]],
        version: str,
    ) -> None:
        """`write_held_text` passes the text on that redaction holds back, if there is any.

        `version` is that of the agent, which the run's record keeps.
        """
        self._attempt = attempt
        self._events = events
        self._ledger = services.ledger
        self._admission = services.admission
        self._answer_keys = services.answer_keys
        self._settings = services.settings
        self._write_held_text = write_held_text
        self._version = version
        self._is_noted = False
        """True once the record says that the run has a journal, of this version."""
        self._size = 0
        self._open: dict[str, OpenWait] = {}
        """The open waits by identity."""
        self._taking = asyncio.Lock()
        self._room = services.room
        Parking(attempt, events, services.ledger, services.settings)
        if services.show_waiting is not None:
            ShownWaits(attempt, services.show_waiting)

    @property
    def exists(self) -> bool:
        """True if earlier attempts left something, as the claim says, or the run is a fork."""
        return self._attempt.lease.has_journal or self._attempt.delivery.fork is not None

    @property
    def durable(self) -> bool:
        """True when the run may be parked."""
        return self._attempt.durable

    @property
    def is_cut_off(self) -> bool:
        """True when the lease is gone, or will be before Redis answers."""
        stop = self._attempt.stop
        return stop is not None and (stop.kind in WITHOUT_LEASE or stop is LOST_TOUCH)

    async def load(self) -> Recorded:
        """Return what earlier attempts have recorded."""
        run_id, fork = self._attempt.run_id, self._attempt.delivery.fork
        if fork is not None:
            await self._at_home(lambda: self._copy(fork))
        stored = await self._at_home(lambda: self._ledger.journals.load(run_id))
        self._size = stored.size
        for wait in stored.waits:
            found = OpenWait(wait.id, wait.spec, wait.expires_ms, wait.decision)
            self._open[wait.spec.identity] = found
        report_replayed(self._attempt, len(stored.entries))
        opened = {wait.spec.identity: wait.opened_ms for wait in stored.waits}
        return Recorded(stored.entries, stored.emitted, opened)

    async def value(self, entry: Entry) -> bytes:
        """Return the JSON of an entry's value that is kept apart."""
        run_id = self._attempt.run_id
        return await self._at_home(lambda: self._ledger.journals.value(run_id, entry))

    async def begin(self, emitted: Mapping[str, int]) -> None:
        """Note counts of events, after all that were accepted before."""
        await self._settle_text()
        await bridge.at_home(self._events.exclusive(lambda: self._note(emitted)))

    async def record(
        self, entry: Entry, emitted: Mapping[str, int], wait_id: str | None = None
    ) -> None:
        """Record an entry after all events that were accepted before; close its wait."""
        self._grow(len(entry.value or b""))
        await self._attempt.prepare_record()
        await self._settle_text()
        await bridge.at_home(self._record(entry, emitted, wait_id))
        report_entry(self._attempt, entry)
        if wait_id is not None:
            del self._open[self._wait(wait_id).spec.identity]

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that keeps the run from being parked inside its block.

        Raises CancelledError in an attempt that gives its run back: no more work may begin.
        """
        if self._attempt.gives_back:
            raise asyncio.CancelledError("the attempt gives its run back")
        return self._attempt.waiting.busy()

    async def open_wait(self, spec: WaitSpec, emitted: Mapping[str, int]) -> str:
        """Open a wait, or find that of an earlier attempt; return its id."""
        # A drain that begins before the handler awaits the wait must park the run, not release it.
        with self._attempt.waiting.opening(spec.identity):
            return await self._opened(spec, emitted)

    async def _opened(self, spec: WaitSpec, emitted: Mapping[str, int]) -> str:
        lease, waits = self._attempt.lease, self._ledger.waits
        known = self._open.get(spec.identity)
        if spec.secret:
            spec = replace(spec, answer_key=self._key_for(known))
        if known is not None and _asks_same(known.spec, spec):
            known.spec = spec
            return known.id
        expires_ms = self._expiry(spec)
        await self._attempt.prepare_record()
        await self._settle_text()
        written = await self._write(
            lambda seq: waits.open(lease, seq, spec, expires_ms, self._events.uncounted(emitted))
        )
        self._open[spec.identity] = OpenWait(written.wait_id, spec, expires_ms)
        return written.wait_id

    def _key_for(self, known: OpenWait | None) -> AnswerKey:
        """Return the key of a wait for a secret: its present one, if it decrypts here."""
        keys = self._answer_keys
        if keys is None:
            raise InvalidArgumentsError(
                "a secret cannot be asked for without a key that encrypts the answer: set"
                " SKILLFLEET_ANSWER_KEYS in the workers (skillfleet keys new --answers makes a"
                " key), or declare secrets=(...)"
            )
        present = None if known is None else known.spec.answer_key
        return present if present is not None and keys.has(present) else keys.newest

    async def reveal(self, value: bytes, wait_id: str | None = None) -> bytes:
        """Return the JSON of a secret answer, which was encrypted for that wait of the run."""
        if self._answer_keys is None:
            raise InvalidResultError("SKILLFLEET_ANSWER_KEYS is not set: secrets cannot be read")
        run_id = None if wait_id is None else self._attempt.run_id
        return self._answer_keys.open(value, run_id, wait_id)

    async def decision(self, wait_id: str) -> Decision:
        """Wait until the wait is decided, and return how."""
        wait, run_id = self._wait(wait_id), self._attempt.run_id
        while True:
            try:
                decision = await self._decided(wait)
            except asyncio.CancelledError:
                if self._attempt.continues:
                    await self.withdraw_wait(wait.spec.identity)
                raise
            if wait.spec.kind is WaitKind.CALL:
                return decision
            try:
                self._check_time(wait, decision)
                return await admit_decision(self._admission, run_id, wait_id, wait.spec, decision)
            except (UnauthorizedError, MissingScopes, ValueError) as error:
                await self.reopen_wait(wait_id, error_text(error))

    def _check_time(self, wait: OpenWait, decision: Decision) -> None:
        """Raise ValueError for a wait that did not end in time, but is said to have."""
        if decision.outcome in (WaitOutcome.ANSWERED, WaitOutcome.REJECTED):
            return
        latest = self._attempt.clock.redis_ms + _SKEW_MS
        if wait.expires_ms is None or wait.expires_ms > latest:
            raise ValueError(f"it has not {decision.outcome}")

    async def reopen_wait(self, wait_id: str, reason: str) -> None:
        """Drop the decision of a wait, which turned out to be invalid."""
        lease, waits = self._attempt.lease, self._ledger.waits
        wait = self._wait(wait_id)
        wait.decision = None
        with self._attempt.waiting.opening(wait.spec.identity):
            await self._write(lambda seq: waits.reopen(lease, seq, wait_id, reason))

    async def withdraw_wait(self, identity: str) -> None:
        """Withdraw a wait that nothing asks for; a decided one stays: its answer is not lost."""
        lease, waits = self._attempt.lease, self._ledger.waits
        wait = self._open[identity]
        if await self._at_home(lambda: waits.decision(lease.run_id, wait.id)) is not None:
            return
        del self._open[identity]
        self._attempt.waiting.not_awaited(identity)
        await self._write(lambda seq: waits.withdraw(lease, seq, wait.id))

    async def receive(
        self, entry: Entry, spec: WaitSpec, emitted: Mapping[str, int]
    ) -> bytes | None:
        """Take the next inbox message and record it as the value of `entry`."""
        began = self._attempt.clock.redis_ms - entry.duration_ms
        await self._attempt.prepare_record()
        await self._settle_text()
        wait = self._open.get(spec.identity)
        if wait is None:
            if (message := await self._take(entry, "", emitted)) is not None:
                return message
            wait = self._wait(await self.open_wait(spec, emitted))
        async with self._awaiting(wait) as check:
            while await self._asked(wait, check) is None:
                timed = replace(entry, duration_ms=self._attempt.clock.redis_ms - began)
                if (message := await self._take(timed, wait.id, {})) is not None:
                    return message
                await self._until(check, wait)
        timed = replace(entry, duration_ms=self._attempt.clock.redis_ms - began)
        await self.record(replace(timed, value=b"null", failure=_NO_MESSAGE), {}, wait.id)
        return None

    def stops_attempt(self, error: BaseException) -> bool:
        """Return whether `error` only reports that the attempt must stop."""
        attempt = self._attempt
        if not attempt.continues:
            return True
        return any(
            isinstance(leaf, LeaseLostError | CancelledByCaller) for leaf in leaves(error)
        ) or attempt.is_overdue(error)

    async def _take(self, entry: Entry, wait_id: str, emitted: Mapping[str, int]) -> bytes | None:
        """Take an inbox message if there is one; it is the value of `entry` from now on."""
        with self._attempt.waiting.writing():
            async with self._taking:
                if not await self._at_home(self._admit_next):
                    return None
                message = await self._receive(entry, wait_id, emitted)
        if message is not None:
            self._size += len(message)
            report_entry(self._attempt, replace(entry, size=len(message)))
            self._open.pop(entry.identity, None)
        return message

    async def _receive(
        self, entry: Entry, wait_id: str, emitted: Mapping[str, int]
    ) -> bytes | None:
        lease, waits = self._attempt.lease, self._ledger.waits
        found: list[bytes | None] = []

        async def write(seq: int) -> WaitWrite:
            counts = self._events.uncounted(emitted)
            written, message = await waits.receive(lease, seq, entry, wait_id, counts)
            found[:] = [message]
            return written

        await self._write(write)
        return found[0]

    async def _admit_next(self) -> bool:
        """Drop messages that the run must not have; return whether there is another one."""
        waits, run_id = self._ledger.waits, self._attempt.run_id
        while (packed := await waits.next_message(run_id)) is not None:
            problem = await self._problem_of(packed)
            if problem is None:
                return True
            logger.warning("run %s: a message is dropped: %s", run_id, problem)
            if await waits.drop_message(self._attempt.lease, packed) is WriteResult.LOST:
                raise self._lost()
        return False

    async def _problem_of(self, packed: bytes) -> str | None:
        """Return why the run must not have a message; None for one that it may have."""
        try:
            message = InboxMessage.unpacked(packed)
            await admit_message(self._admission, self._attempt.run_id, message)
        except (UnauthorizedError, MissingScopes, ValueError) as error:
            return error_text(error)
        if message.run and not await self._ledger.queries.is_held(message.run):
            return f"run {message.run} of the session, which it stands for, has ended"
        return None

    async def _decided(self, wait: OpenWait) -> Decision:
        """Return the decision of a wait, as the ledger has it, once there is one."""
        if wait.decision is not None:
            self._attempt.waiting.not_awaited(wait.spec.identity)
        else:
            async with self._awaiting(wait) as check:
                began = time.monotonic()
                while (decision := await self._asked(wait, check)) is None:
                    await self._until(check, wait)
                record(WAIT_DURATION, time.monotonic() - began, wait.spec.kind)
            wait.decision = decision
        return wait.decision

    @contextlib.asynccontextmanager
    async def _awaiting(self, wait: OpenWait) -> AsyncIterator[asyncio.Event]:
        """Inside, the handler awaits a wait, and its slot is given back where that is possible.

        The block ends normally only in an attempt that still has its lease.
        """
        waiting = self._attempt.waiting
        parks_at_once = self._attempt.durable and self._room.is_full
        with self._room.entered(wait):
            async with (
                contextlib.nullcontext(enter_result=False)
                if parks_at_once
                else release_slot() as released
            ):
                waiting.holds_slot = not released
                with waiting.awaiting(wait.id, wait.spec) as check:
                    yield check
                    await waiting.until_free()
        if not self._attempt.has_lease:
            raise asyncio.CancelledError("the run is parked")

    async def _asked(self, wait: OpenWait, check: asyncio.Event) -> Decision | None:
        """Ask the ledger how a wait was decided; it decides about one that has expired."""
        waits, run_id = self._ledger.waits, self._attempt.run_id
        check.clear()
        try:
            if wait.spec.kind is WaitKind.CALL:
                return await bridge.at_home(self._end_of_call(wait.spec.call))
            if wait.expires_ms is None or self._attempt.clock.redis_ms < wait.expires_ms:
                return await bridge.at_home(waits.decision(run_id, wait.id))
            decided = await bridge.at_home(waits.decide(run_id, wait.id, _EXPIRED))
        except FleetUnavailableError:
            await asyncio.sleep(RETRY_SECONDS)
            check.set()
            return None
        if decided.status is DecideStatus.EARLY:
            await asyncio.sleep(_EARLY_SECONDS)
            check.set()
            return None
        if decided.status in (DecideStatus.UNKNOWN, DecideStatus.ENDED):
            # Redis came back with less than it had, or the run has ended without this attempt.
            raise self._lost()
        return decided.decision or _EXPIRED

    async def _end_of_call(self, run_id: str) -> Decision | None:
        try:
            state, _ = await self._ledger.queries.state(run_id)
        except UnknownRunError:
            return _CALL_ENDED
        return _CALL_ENDED if state.terminal else None

    async def _until(self, check: asyncio.Event, wait: OpenWait) -> None:
        """Return when a wait may have been decided, or expires."""
        left = None
        if wait.expires_ms is not None:
            left = max(wait.expires_ms - self._attempt.clock.redis_ms, 0) / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await check.wait()

    async def _settle_text(self) -> None:
        await self._write_held_text()

    def _wait(self, wait_id: str) -> OpenWait:
        return next(wait for wait in self._open.values() if wait.id == wait_id)

    def _expiry(self, spec: WaitSpec) -> int | None:
        """Return when a wait expires, milliseconds since the epoch by Redis time: never early."""
        if spec.kind is WaitKind.CALL:
            return None
        seconds = self._settings.max_wait_seconds if spec.seconds is None else spec.seconds
        now = self._attempt.clock.redis_ms + self._attempt.claim_ms
        return now + int(seconds * 1000)

    def _grow(self, size: int) -> None:
        """Count the bytes of an entry; raises JournalFullError."""
        most = self._settings.max_journal_bytes
        if self._size + size > most:
            raise JournalFullError(
                f"the journal of run {self._attempt.run_id!r} has {self._size} bytes: an entry of"
                f" {size} bytes exceeds SKILLFLEET_MAX_JOURNAL_BYTES ({most})"
            )
        self._size += size

    async def _note(self, emitted: Mapping[str, int]) -> None:
        """Write counts of events; on the home loop."""
        lease, streams, seq = self._attempt.lease, self._ledger.streams, self._events.seq
        counts = self._events.uncounted(emitted)
        noted = await self._retried(lambda: streams.append(lease, seq + 1, (), emitted=counts))
        if noted is None:
            raise self._lost()

    async def _record(self, entry: Entry, emitted: Mapping[str, int], wait_id: str | None) -> None:
        """Write an entry; on the home loop."""
        lease, journals, waits = self._attempt.lease, self._ledger.journals, self._ledger.waits
        value = entry.value
        if value is not None and len(value) > INLINE_BYTES:
            digest = hashlib.sha256(value).hexdigest()
            stored = await self._retried(lambda: journals.write_value(lease, digest, value))
            if stored is WriteResult.LOST:
                raise self._lost()
            entry = replace(entry, value=None, digest=digest)
        if wait_id is not None:
            await self._write(
                lambda seq: waits.close(
                    *(lease, seq, wait_id, entry),
                    emitted=self._events.uncounted(emitted),
                    version=self._version,
                )
            )
            return
        await self._events.flush()
        version = "" if self._is_noted else self._version
        clears_step, emitted = (
            self._events.has_step(entry.identity),
            self._events.uncounted(emitted),
        )
        written = await self._retried(
            lambda: journals.record(lease, entry, emitted, version=version, clears_step=clears_step)
        )
        if written is WriteResult.LOST:
            raise self._lost()
        self._is_noted = True

    async def _write(self, write: Callable[[int], Awaitable[WaitWrite]]) -> WaitWrite:
        """Run a script that writes events, after all events that were accepted before."""

        async def once() -> WaitWrite:
            while True:
                written = await write(self._events.seq)
                if written.result is WriteResult.LOST:
                    raise self._lost()
                self._events.continue_after(written.seq)
                if written.result is not WriteResult.GAP:
                    return written

        return await bridge.at_home(self._events.exclusive(lambda: self._retried(once)))

    async def _copy(self, fork: Fork) -> None:
        lease = self._attempt.lease
        if await self._ledger.journals.copy(lease, fork.run, fork.before) is WriteResult.LOST:
            raise LeaseLostError(self._attempt.run_id)

    async def _at_home(self, work: Callable[[], Awaitable[T]]) -> T:
        return await bridge.at_home(self._retried(work))

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await retry_until(self._settings.events_patience_seconds, work)
        except LeaseLostError:
            raise self._lost() from None

    def _lost(self) -> LeaseLostError:
        self._attempt.lose()
        return LeaseLostError(self._attempt.run_id)
