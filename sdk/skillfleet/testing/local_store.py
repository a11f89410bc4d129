"""The store of one local attempt: it enforces what a fleet's ledger enforces."""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from skillfleet.contracts import (
    SUPERSEDED_KIND,
    WAIT_ENDED_KIND,
    WAIT_KIND,
    ReasonCode,
    WaitKind,
    WaitOutcome,
)
from skillfleet.errors import (
    InvalidArgumentsError,
    SkillfleetError,
    WaitRejected,
    WaitTimedOut,
)
from skillfleet.ports.journal import (
    Decision,
    Emission,
    Entry,
    EntryFailure,
    JournalStore,
    Recorded,
    WaitSpec,
)
from skillfleet.testing.clock import Clock
from skillfleet.testing.local_journal import LocalJournal, LocalWait
from skillfleet.types import AgentEvent

_ANNOUNCED: Final = (WaitKind.ASK, WaitKind.GRANT, WaitKind.MESSAGE)
"""The kinds of waits that have events."""


class AttemptLostError(SkillfleetError):
    """The attempt was lost (`LocalRunContext.lose`): it can write nothing more."""

    code: str = ReasonCode.WORKER_LOST


@dataclass(frozen=True)
class LocalAttempt:
    """The properties of a store's attempt. It does not refer to the context, which owns it."""

    run_id: str
    journal: LocalJournal
    clock: Clock
    answers: Mapping[str, Any]
    note: Callable[[AgentEvent], None]
    """Appends an event of the fleet's own."""
    is_stopping: Callable[[], bool]
    """True once the attempt is cancelled, overdue or lost."""
    durable: bool = False


class LocalJournalStore(JournalStore):
    """The store of one attempt, which takes the right to write from the attempt before."""

    def __init__(self, attempt: LocalAttempt) -> None:
        self._attempt = attempt
        self._journal = journal = attempt.journal
        journal.token += 1
        self._token = journal.token
        for step in sorted(journal.unfinished):
            attempt.note(AgentEvent(SUPERSEDED_KIND, {"step": step}))
        journal.unfinished.clear()

    @property
    def exists(self) -> bool:
        """True if the journal holds anything."""
        return self._journal.exists

    @property
    def durable(self) -> bool:
        """True for a run of a durable skill."""
        return self._attempt.durable

    @property
    def lost(self) -> bool:
        """True once a later attempt has begun."""
        return self._journal.token != self._token

    def check(self) -> None:
        """Raise `AttemptLostError` once a later attempt has begun."""
        if self.lost:
            raise AttemptLostError("the attempt was lost: it can write nothing more")

    def emitted(self, emission: Emission | None) -> None:
        """Keep the place of an event."""
        self.check()
        if emission is None:
            return
        if emission.step is not None:
            self._journal.unfinished.add(emission.step)
        elif emission.address is not None:
            self._journal.count({emission.address: emission.ordinal + 1})

    async def load(self) -> Recorded:
        """Return what the journal holds."""
        journal = self._journal
        return Recorded(
            entries=sorted(journal.entries.values(), key=lambda entry: entry.number),
            emitted=dict(journal.emitted),
            waits={wait.spec.identity: self._opened_ms(wait) for wait in journal.waits.values()},
        )

    def _opened_ms(self, wait: LocalWait) -> int:
        """Return when a wait was opened; a test clock may be far from the time of day."""
        return round((time.time() - max(0.0, self._attempt.clock.now() - wait.opened)) * 1000)

    async def value(self, entry: Entry) -> bytes:
        """Return a value that is kept apart."""
        return self._journal.value(entry)

    async def begin(self, emitted: Mapping[str, int]) -> None:
        """Note counts of events."""
        self.check()
        self._journal.count(emitted)

    async def record(
        self, entry: Entry, emitted: Mapping[str, int], wait_id: str | None = None
    ) -> None:
        """Record an entry, and close its wait."""
        self.check()
        self._journal.add(entry, emitted)
        if wait_id is not None and wait_id in self._journal.waits:
            self._close(self._journal.waits[wait_id])

    async def open_wait(self, spec: WaitSpec, emitted: Mapping[str, int]) -> str:
        """Open or find a wait."""
        return self._open(spec, emitted).id

    def _open(self, spec: WaitSpec, emitted: Mapping[str, int]) -> LocalWait:
        self.check()
        wait, is_new = self._journal.open(spec, self._attempt.clock.now())
        self._journal.count(emitted)
        if is_new and spec.kind in _ANNOUNCED:
            shown = wait.shown(self._attempt.run_id).model_dump(mode="json")
            names = ("id", "kind", "name", "question", "value_schema")
            self._attempt.note(AgentEvent(WAIT_KIND, {name: shown[name] for name in names}))
        return wait

    async def decision(self, wait_id: str) -> Decision:
        """Return how a wait was decided: by the test's answers, or in the end by the clock."""
        wait = self._journal.waits[wait_id]
        await self._answer(wait)
        with self._until_given_up(wait):
            while wait.decision is None:
                if not await self._change(wait):
                    self._journal.decide(wait, Decision(WaitOutcome.EXPIRED))
        return wait.decision

    async def reveal(self, value: bytes, wait_id: str | None = None) -> bytes:
        """Return the JSON of a secret answer."""
        del wait_id
        return self._journal.revealed(value)

    async def reopen_wait(self, wait_id: str, reason: str) -> None:
        """Drop an invalid decision; raise `InvalidArgumentsError` if the test's answers gave it."""
        self.check()
        wait = self._journal.waits[wait_id]
        wait.decision = None
        found, answer = self._prepared(wait.spec)
        if found and not callable(answer):
            shown = "a secret" if wait.spec.secret else repr(answer)
            raise InvalidArgumentsError(f"answers: {shown} does not fit: {reason}")

    async def withdraw_wait(self, identity: str) -> None:
        """Withdraw a wait."""
        self.check()
        for wait in tuple(self._journal.waits.values()):
            if wait.spec.identity == identity and wait.decision is None:
                self._withdraw(wait)

    async def receive(
        self, entry: Entry, spec: WaitSpec, emitted: Mapping[str, int]
    ) -> bytes | None:
        """Take and record the next message."""
        self.check()
        journal = self._journal
        if not journal.inbox:
            wait = self._open(spec, emitted)
            with self._until_given_up(wait):
                while not journal.inbox and await self._change(wait):
                    pass
            outcome = WaitOutcome.ANSWERED if journal.inbox else WaitOutcome.EXPIRED
            journal.decide(wait, Decision(outcome))
            self._close(wait)
        self.check()
        if not journal.inbox:
            failure = EntryFailure(WaitTimedOut.__name__, WaitTimedOut.code, "no message in time")
            journal.add(replace(entry, failure=failure), emitted)
            return None
        message = journal.inbox.popleft()
        journal.add(replace(entry, value=message, size=len(message)), emitted)
        return message

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Do nothing: a local run is never parked."""
        yield

    def stops_attempt(self, error: BaseException) -> bool:
        """Return whether the attempt is stopping, for whatever reason."""
        return self.lost or isinstance(error, AttemptLostError) or self._attempt.is_stopping()

    @contextmanager
    def _until_given_up(self, wait: LocalWait) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            if not self.stops_attempt(error):
                self._withdraw(wait)
            raise

    def _withdraw(self, wait: LocalWait) -> None:
        wait.decision = Decision(WaitOutcome.WITHDRAWN)
        self._close(wait)

    def _close(self, wait: LocalWait) -> None:
        if self._journal.waits.pop(wait.id, None) is None or wait.spec.kind not in _ANNOUNCED:
            return
        decision = wait.decision or Decision(WaitOutcome.WITHDRAWN)
        payload = {
            "id": wait.id,
            "kind": str(wait.spec.kind),
            "outcome": str(decision.outcome),
            "by": decision.by,
            "reason": decision.reason,
        }
        self._attempt.note(AgentEvent(WAIT_ENDED_KIND, payload))

    async def _change(self, wait: LocalWait) -> bool:
        """Return True after a change; False once the wait has expired."""
        changed = asyncio.ensure_future(self._journal.changed())
        waiting = {changed}
        if wait.expires is not None:
            waiting.add(asyncio.ensure_future(self._attempt.clock.sleep_until(wait.expires)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        self.check()
        return changed.done() and not changed.cancelled()

    async def _answer(self, wait: LocalWait) -> None:
        """Decide a question as the test's answers say."""
        found, answer = self._prepared(wait.spec)
        if not found or wait.decision is not None:
            return
        try:
            if callable(answer):
                answer = answer(wait.shown(self._attempt.run_id))
            if inspect.isawaitable(answer):
                answer = await answer
            if isinstance(answer, Exception):
                raise answer
            value = self._journal.kept_answer(wait.spec, answer)
            decision = Decision(WaitOutcome.ANSWERED, value, by="test")
        except WaitRejected as error:
            decision = Decision(WaitOutcome.REJECTED, reason=error.reason, by=error.by or "test")
        except WaitTimedOut:
            decision = Decision(WaitOutcome.EXPIRED)
        self._journal.decide(wait, decision)

    def _prepared(self, spec: WaitSpec) -> tuple[bool, Any]:
        if spec.kind in (WaitKind.ASK, WaitKind.GRANT):
            for name in (spec.name, spec.question):
                if name and name in self._attempt.answers:
                    return True, self._attempt.answers[name]
        return False, None
