"""Input of runs from outside: answers, rejections and inbox messages.

An answer is checked where it is given; the worker that resumes the run checks it again.
"""

import hmac
import re
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from skillfleet.arguments import check_answer
from skillfleet.contracts import Wait, WaitKind, WaitOutcome
from skillfleet.errors import (
    ArgumentsTooLargeError,
    InvalidArgumentsError,
    MissingScopes,
    RunEndedError,
    SkillfleetError,
    UnknownWaitError,
    WaitConflictError,
)
from skillfleet.jsonable import Json, NotJsonError, to_json
from skillfleet.ports.admission import IncomingInput, InputKind
from skillfleet.ports.journal import Decision
from skillfleet.texts import plain_text, shortened_text
from skillfleet_auth.sealing import seal
from skillfleet_auth.signing import Signing
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_ledger.runs.waits import DecideResult, DecideStatus
from skillfleet_producer.publisher import Publisher, publish_woken
from skillfleet_producer.submission import claims_of

Caller = BaseModel | Mapping[str, Any] | None
"""The caller who gives an input: claims, or an instance of an agent's `auth_model`."""

_WAIT_ID = re.compile(r"[1-9][0-9]{0,8}")
_ANSWERABLE = (WaitKind.ASK, WaitKind.GRANT)


class Inputs:
    """Gives runs their input, and publishes the parked runs that it wakes.

    Where the fleet requires authentication, each input is signed for its caller.
    """

    def __init__(self, ledger: Ledger, publisher: Publisher, signing: Signing) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._signing = signing

    async def answer(self, run_id: str, value: Any, wait_id: str | None, auth: Caller) -> bool:
        """Answer a wait; False when it had been answered with the same value before.

        Redis gets a secret value encrypted only, and its token is for the encrypted form. A wait
        that is not open is compared with the value, which might be secret, and gets nothing.
        """
        json = _json_of("the answer", value, self._ledger.settings.max_arguments_bytes)
        claims = claims_of(auth)
        wait = await self._wait(run_id, wait_id)
        plain = orjson.dumps(json.plain, option=_SORTED)
        if isinstance(wait, str):
            given = self._given(run_id, wait, InputKind.ANSWER, None, claims)
            same = [plain, self._comparable(run_id, wait, plain)]
            answer = WaitOutcome.ANSWERED
            decided = await self._ledger.waits.compare(run_id, wait, answer, same)
            if decided.status is DecideStatus.EARLY:
                # It has been opened since.
                return await self.answer(run_id, value, wait, auth)
            return await self._reported(given, decided)
        key = wait.answer_key
        check_answer(json.plain, wait.value_schema, secret=key is not None)
        sealed = json.plain if key is None else seal(plain, key, run_id, wait.id)
        given = self._given(run_id, wait, InputKind.ANSWER, sealed, claims)
        return await self._decide(
            given,
            WaitOutcome.ANSWERED,
            claims,
            value=orjson.dumps(sealed, option=_SORTED),
            same=None if key is None else self._comparable(run_id, wait.id, plain),
        )

    async def reject(self, run_id: str, reason: str, wait_id: str | None, auth: Caller) -> bool:
        """Reject a wait; False when it had been rejected before, for whatever reason."""
        reason = shortened_text(plain_text(reason))
        claims = claims_of(auth)
        wait = await self._wait(run_id, wait_id)
        given = self._given(run_id, wait, InputKind.REJECTION, reason, claims)
        return await self._decide(given, WaitOutcome.REJECTED, claims, reason=reason)

    async def send(self, run_id: str, message: Any, auth: Caller) -> None:
        """Put a message into the run's inbox."""
        json = _json_of("the message", message, self._ledger.settings.max_arguments_bytes)
        claims = claims_of(auth)
        given = self._given(run_id, "", InputKind.MESSAGE, json.plain, claims)
        token = self._signing.input_token(given, claims)
        packed = InboxMessage(json.encoded, given.by, token).packed()
        result = await self._ledger.waits.send(run_id, packed)
        if not result.sent:
            raise RunEndedError(f"run {run_id} has ended: it takes no more messages")
        if result.woken:
            await publish_woken(self._ledger, self._publisher, run_id)

    async def _wait(self, run_id: str, wait_id: str | None) -> Wait | str:
        """Return the open wait to decide; the id alone when it is not open any more.

        Without an id, it is the only open one that takes an answer; where none is open, the last
        one that was answered or rejected, as a request may come again.
        """
        if wait_id is not None and not _WAIT_ID.fullmatch(wait_id):
            raise UnknownWaitError(f"{wait_id!r:.100} is not the id of a wait")
        waits = await self._ledger.waits.list(run_id)
        if wait_id is not None:
            return next((wait for wait in waits if wait.id == wait_id), wait_id)
        found = [wait for wait in waits if wait.kind in _ANSWERABLE]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{each.id} ({shortened_text(each.question, 60)})" for each in found)
            raise UnknownWaitError(f"run {run_id} has several open questions, name one: {listed}")
        if (last := await self._ledger.waits.last_decided(run_id)) is not None:
            return last
        state, _ = await self._ledger.queries.state(run_id)
        if state.terminal:
            raise RunEndedError(f"run {run_id} has ended: {state}")
        raise UnknownWaitError(f"run {run_id} has no open question")

    def _given(
        self,
        run_id: str,
        wait: Wait | str,
        kind: InputKind,
        value: Any,
        claims: Mapping[str, Any] | None,
    ) -> IncomingInput:
        """Return the input; raises MissingScopes when the wait requires more than the caller has.

        The scopes are those that the caller claims; with authentication, workers verify them.
        """
        wait_id, scopes = (wait, ()) if isinstance(wait, str) else (wait.id, wait.scopes)
        claimed = (claims or {}).get("scopes") or ()
        if missing := set(scopes).difference(claimed):
            raise MissingScopes(sorted(missing))
        by = str((claims or {}).get("sub") or "")
        return IncomingInput(run_id, wait_id, kind, value, by, None, scopes)

    async def _decide(
        self,
        given: IncomingInput,
        outcome: WaitOutcome,
        claims: Mapping[str, Any] | None,
        same: bytes | None = None,
        **parts: Any,
    ) -> bool:
        token = self._signing.input_token(given, claims)
        decision = Decision(outcome, by=given.by, token=token, **parts)
        decided = await self._ledger.waits.decide(given.run_id, given.wait_id, decision, same)
        return await self._reported(given, decided)

    def _comparable(self, run_id: str, wait_id: str, plain: bytes) -> bytes:
        """Return what equal secret answers to a wait have in common, for this signer only."""
        bound = b"\0".join((run_id.encode(), wait_id.encode(), plain))
        return hmac.digest(self._signing.comparison_key, bound, "sha256")

    async def _reported(self, given: IncomingInput, decided: DecideResult) -> bool:
        """Publish the run that a decision woke; return whether it was this one that decided."""
        if decided.woken:
            await publish_woken(self._ledger, self._publisher, given.run_id)
        if decided.status is DecideStatus.DECIDED:
            return True
        if decided.status is DecideStatus.SAME:
            return False
        raise _refused(given, decided)


_SORTED = orjson.OPT_SORT_KEYS
"""Equal values have equal bytes, whatever the order of their names."""


def _refused(given: IncomingInput, decided: DecideResult) -> SkillfleetError:
    """Return the error for an input that the ledger did not accept."""
    where = f"wait {given.wait_id} of run {given.run_id}"
    if decided.status is DecideStatus.CONFLICT:
        former = decided.decision
        how = f"{former.outcome}" + (f" by {former.by}" * bool(former.by)) if former else "decided"
        return WaitConflictError(f"{where} was {how} before")
    if decided.status is DecideStatus.ENDED:
        return RunEndedError(f"{where} cannot be decided: the run has ended")
    return UnknownWaitError(f"{where}: there is no such question")


def _json_of(what: str, value: Any, limit: int) -> Json:
    """Return the JSON of a value of at most `limit` bytes; the errors name `what` and the place."""
    try:
        json = to_json(value)
    except NotJsonError as error:
        where = f"{what}: {error.where}" if error.where else what
        raise InvalidArgumentsError(f"{where} is not JSON: {error}") from None
    if len(json.encoded) > limit:
        raise ArgumentsTooLargeError(
            f"{what} has {len(json.encoded)} bytes, the limit is {limit}"
            " (SKILLFLEET_MAX_ARGUMENTS_BYTES): keep large data in your storage and pass its name"
        )
    return json
