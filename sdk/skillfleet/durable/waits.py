"""Waits: questions, pauses and inbox messages, whose answers are recorded once."""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from skillfleet.arguments import check_seconds
from skillfleet.contracts import EntryKind, WaitKind, WaitOutcome
from skillfleet.durable import identity as identities
from skillfleet.durable.failures import SecretKeeper, recorded_error
from skillfleet.durable.journal import Journal, JournalOwner, Started, journal_of
from skillfleet.durable.replay import refuse_nested, replayed
from skillfleet.durable.spans import entry_span
from skillfleet.durable.timers import wait_for_timer
from skillfleet.durable.values import AnswerType, PlainType, answer_type
from skillfleet.errors import (
    InvalidArgumentsError,
    InvalidResultError,
    WaitRejected,
    WaitTimedOut,
)
from skillfleet.failures import error_text
from skillfleet.ports.journal import Decision, Entry, EntryFailure, WaitSpec
from skillfleet.texts import MOST_MESSAGE_CHARS, shortened_text

_TURNS: Final = 3
_MOST_NAME_CHARS: Final = 80
_PLAIN: Final = PlainType()
_NO_MESSAGE: Final = EntryFailure(
    WaitTimedOut.__name__, WaitTimedOut.code, "no inbox message arrived in time"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question as the handler asks it."""

    question: str
    schema: Any = str
    timeout: float | None = None
    key: str | None = None
    scopes: Sequence[str] = ()
    kind: WaitKind = WaitKind.ASK

    def check(self) -> None:
        """Raise `InvalidArgumentsError` for what cannot be asked."""
        if not isinstance(self.question, str) or not self.question.strip():
            raise InvalidArgumentsError(f"a question must be a text, got {self.question!r}")
        if len(self.question) > MOST_MESSAGE_CHARS:
            raise InvalidArgumentsError(
                f"a question has at most {MOST_MESSAGE_CHARS} characters, this one has"
                f" {len(self.question)}: emit the long part as an event, or store an artifact"
            )
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        several = not isinstance(self.scopes, str)
        if not several or not all(isinstance(scope, str) for scope in self.scopes):
            raise InvalidArgumentsError("scopes must be a tuple of strings")


class WaitContext(JournalOwner, SecretKeeper, Protocol):
    """The part of a run context that a question needs."""


async def ask(context: WaitContext, question: Question) -> Any:
    """Return the validated answer to a question; see `RunContext.ask`."""
    journal = journal_of(context)
    refuse_nested(journal, "a question")
    question.check()
    if context._contains_secret({"question": question.question}):  # noqa: SLF001 - for runtimes
        raise InvalidArgumentsError("the question contains the value of a secret: it is shown")
    kind = answer_type(question.schema)
    digest = identities.digest_of([question.question, kind.schema])
    async with journal.asking(EntryKind.ASK, "ask", question.key, digest) as identity:
        answer = await _answer(journal, question, kind, identity)
    if kind.secret:
        context._hide(kind.secrets_in(answer))  # noqa: SLF001 - for runtimes
    return answer


async def _answer(journal: Journal, question: Question, kind: AnswerType, identity: str) -> Any:
    """Return the recorded answer, or ask for one."""
    entry = journal.find(identity)
    if entry is not None:
        return await replayed(journal, entry, kind)
    await _withdraw_others(journal, identity, question.key)
    spec = WaitSpec(
        identity=identity,
        kind=question.kind,
        name=question.key or "",
        question=question.question,
        schema=kind.schema,
        scopes=tuple(question.scopes),
        seconds=question.timeout,
        secret=kind.secret,
    )
    return await _Asking(journal, spec, kind).run()


async def _withdraw_others(journal: Journal, identity: str, key: str | None) -> None:
    """Withdraw what an earlier attempt asked in place of this: another question at its place."""
    if journal.claim_wait(identity):
        return
    if key is not None:
        await journal.withdraw(f"{identities.keyed(EntryKind.ASK, key)}#")
        return
    others = identities.counted_prefix(EntryKind.ASK)
    if not journal.has_waits(others):
        return
    for _ in range(_TURNS):
        # Tasks that have only just begun find their own questions first.
        await asyncio.sleep(0)
    if journal.positions.alone:
        await journal.withdraw(others)


class _Asking:
    """A question that is not answered yet."""

    def __init__(self, journal: Journal, spec: WaitSpec, kind: AnswerType) -> None:
        self._journal = journal
        self._spec = spec
        self._kind = kind
        name = spec.name or shortened_text(spec.question, _MOST_NAME_CHARS)
        self._started: Started = journal.start(spec.identity, EntryKind.ASK, name)

    async def run(self) -> Any:
        """Return the first valid answer, or raise what was decided instead."""
        wait_id = await self._journal.open_wait(self._spec)
        while True:
            with entry_span(EntryKind.ASK, self._spec.name, self._spec.identity):
                decision = await self._journal.store.decision(wait_id)
            if decision.outcome is not WaitOutcome.ANSWERED:
                failure = self._failure(decision)
                entry = await self._record(wait_id, failure=failure)
                error = recorded_error(entry, failure)
                self._journal.raised(error, entry.identity)
                raise error
            try:
                answer = self._kind.decode(await self._json(wait_id, decision))
            except InvalidResultError as error:
                await self._journal.store.reopen_wait(wait_id, error_text(error))
                continue
            await self._record(wait_id, value=decision.value)
            return answer

    async def _json(self, wait_id: str, decision: Decision) -> bytes:
        if not self._kind.secret:
            return decision.value
        return await self._journal.store.reveal(decision.value, wait_id)

    async def _record(
        self, wait_id: str, value: bytes | None = None, failure: EntryFailure | None = None
    ) -> Entry:
        entry = self._journal.entry(self._started, value, failure)
        await self._journal.record(entry, wait_id)
        self._journal.passed(entry)
        return entry

    def _failure(self, decision: Decision) -> EntryFailure:
        if decision.outcome is WaitOutcome.EXPIRED:
            message = f"no answer came in time: {self._spec.question}"
            return EntryFailure(WaitTimedOut.__name__, WaitTimedOut.code, message)
        reason = decision.reason or str(decision.outcome)
        return EntryFailure(WaitRejected.__name__, WaitRejected.code, reason, decision.by)


async def sleep(context: JournalOwner, seconds: float) -> None:
    """Return after so many seconds; see `RunContext.sleep`."""
    journal = journal_of(context)
    refuse_nested(journal, "a pause")
    check_seconds("seconds", seconds, or_zero=True)
    if seconds == 0:
        await asyncio.sleep(0)
        return
    identity = await _identity_here(journal, EntryKind.TIMER, "sleep", seconds)
    entry = journal.find(identity)
    if entry is None:
        spec = WaitSpec(identity, WaitKind.TIMER, name="sleep", seconds=seconds)
        entry = await wait_for_timer(journal, spec)
    journal.passed(entry)


async def receive(context: JournalOwner, timeout: float | None = None) -> Any:
    """Return the next inbox message; see `RunContext.receive`."""
    journal = journal_of(context)
    refuse_nested(journal, "receiving")
    if timeout is not None:
        check_seconds("timeout", timeout)
    identity = await _identity_here(journal, EntryKind.MESSAGE, "receive", timeout)
    recorded = journal.find(identity)
    if recorded is not None:
        return await replayed(journal, recorded, _PLAIN)
    entry = journal.entry(journal.start(identity, EntryKind.MESSAGE, "receive"))
    spec = WaitSpec(identity, WaitKind.MESSAGE, name="receive", seconds=timeout)
    with entry_span(EntryKind.MESSAGE, spec.name, identity):
        message = await journal.receive(entry, spec)
    if message is None:
        journal.passed(dataclasses.replace(entry, failure=_NO_MESSAGE))
        error = recorded_error(entry, _NO_MESSAGE)
        journal.raised(error, identity)
        raise error
    journal.passed(entry)
    return orjson.loads(message)


async def _identity_here(
    journal: Journal, kind: EntryKind, name: str, seconds: float | None
) -> str:
    """Return the identity of a wait without content, from the position of its task.

    Equal ones of several tasks need no keys: each task counts its own.
    """
    digest = identities.digest_of([journal.positions.current().address, seconds])
    identity = identities.counted(kind, name, digest, journal.count(kind, name, digest))
    await journal.load()
    return identity
