"""Waits: what runs wait for, how it was decided, and the messages in their inboxes.

A wait is stored in three lines: what scripts read of it (open_wait.lua), what its event does not
show (JSON), and the payload of its event without its id (JSON). A decision, too: outcome, digest
and time; who decided and why (JSON); its value (JSON). Producers may write decisions: workers
believe none of it without checks.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple

import orjson

from skillfleet.contracts.waits import AnswerKey, Wait, WaitKind, WaitOutcome
from skillfleet.errors import InboxFullError, LimitExceededError
from skillfleet.ports.journal import Decision, Entry, WaitSpec
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.entries import packed
from skillfleet_ledger.runs.queries import unknown_run
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.settings import MEBIBYTE

MOST_WAITS = 100
"""The most open waits of a run."""
MOST_MESSAGES = 1000
MOST_INBOX_BYTES = MEBIBYTE
"""The most unread messages of a run, and their bytes (common.lua)."""
_EXPIRED = Decision(WaitOutcome.EXPIRED)
_EXPIRED_DIGEST = "0"
_TOO_MANY = -2


class StoredWait(NamedTuple):
    """A wait that an attempt has opened and not closed; times by Redis's clock."""

    id: str
    spec: WaitSpec
    opened_ms: int
    expires_ms: int | None
    decision: Decision | None


class WaitWrite(NamedTuple):
    """The answer to a write about a wait: RECORDED, EMPTY, LOST or GAP.

    `seq` is the number of the run's last event: the attempt continues after it.
    """

    result: WriteResult
    seq: int = 0
    wait_id: str = ""


class DecideStatus(StrEnum):
    """The answer to a decision.

    SAME: it was decided so before. CONFLICT: it was decided otherwise, or withdrawn. EARLY: it
    does not expire yet. UNKNOWN: there is no such wait, or no one but the fleet decides it.
    """

    DECIDED = "decided"
    SAME = "same"
    CONFLICT = "conflict"
    EARLY = "early"
    ENDED = "ended"
    UNKNOWN = "unknown"


class DecideResult(NamedTuple):
    """The result of a decision. `decision` is an earlier one, if it is still known.

    `woken`: the run was parked and is queued now; the caller publishes it, and notes that with
    `Maintenance.published`.
    """

    status: DecideStatus
    woken: bool = False
    decision: Decision | None = None


class SendResult(NamedTuple):
    """The result of sending a message: none reaches an ended run. `woken` as in `DecideResult`."""

    sent: bool
    woken: bool = False


class Waits(RunOperations):
    """Opens and closes waits under the lease; decides them and sends messages without it."""

    async def open(
        self,
        lease: Lease,
        seq: int,
        spec: WaitSpec,
        expires_ms: int | None,
        emitted: Mapping[str, int] | None = None,
    ) -> WaitWrite:
        """Open a wait, or find the open one of the same identity, kind, question and schema.

        An open one of that identity that asks for something else is withdrawn. `expires_ms` is
        a time by Redis's clock; `emitted` as for `Journals.record`. Raises LimitExceededError
        for too many waits.
        """
        reply = await self._run(
            "open_wait",
            lease.run_id,
            *(lease.token, seq, spec.kind, "-" if expires_ms is None else expires_ms),
            *(spec.call or "-", _short(spec.identity.encode()), _question(spec)),
            *(_private(spec), _payload(spec), MOST_WAITS),
            *chain.from_iterable((emitted or {}).items()),
        )
        if reply[0] == _TOO_MANY:
            raise LimitExceededError(f"the run already has {MOST_WAITS} open waits")
        status, *more = reply
        if status != 1:
            return _written(reply)
        return WaitWrite(WriteResult.RECORDED, int(more[0]), more[1].decode())

    async def close(
        self,
        lease: Lease,
        seq: int,
        wait_id: str,
        entry: Entry,
        emitted: Mapping[str, int],
        *,
        version: str = "",
    ) -> WaitWrite:
        """Record what a wait led to, and remove the wait; arguments as for `Journals.record`."""
        reply = await self._run(
            "record",
            lease.run_id,
            *(lease.token, entry.identity, packed(entry), version, ""),
            *(entry.digest, wait_id, seq),
            *chain.from_iterable(emitted.items()),
        )
        return _written(reply)

    async def withdraw(self, lease: Lease, seq: int, wait_id: str, reason: str = "") -> WaitWrite:
        """Remove a wait that the run does not need any more; later answers conflict."""
        reason = reason or "the run does not ask for it any more"
        return _written(
            await self._run("withdraw_wait", lease.run_id, lease.token, seq, wait_id, reason)
        )

    async def reopen(self, lease: Lease, seq: int, wait_id: str, reason: str) -> WaitWrite:
        """Drop the decision of a wait, which turned out to be invalid."""
        return _written(
            await self._run("reopen_wait", lease.run_id, lease.token, seq, wait_id, reason)
        )

    async def decision(self, run_id: str, wait_id: str) -> Decision | None:
        """Return how a wait was decided; None before."""
        stored = await self._connection.execute("HGET", self._key("decisions", run_id), wait_id)
        return None if stored is None else decision_of(stored)

    async def decide(
        self, run_id: str, wait_id: str, decision: Decision, same: bytes | None = None
    ) -> DecideResult:
        """Decide a wait, once. Raises UnknownRunError.

        `same` are the bytes that equal answers have in common, if not those of the value: an
        encrypted one differs each time.
        """
        digest = _decided_digest(decision.outcome, decision.value if same is None else same)
        status, woken, before = await self._decide(run_id, wait_id, decision, digest)
        known = decision_of(before) if b"\n" in before else None
        return DecideResult(status, woken, known)

    async def compare(
        self, run_id: str, wait_id: str, outcome: WaitOutcome, same: Sequence[bytes]
    ) -> DecideResult:
        """Compare with the decision of a wait that is not open, which gets none of the values.

        `same` as for `decide`: one of them must be that of the decision. Expires a wait that is
        overdue. EARLY: the wait is open now. Raises UnknownRunError.
        """
        status, woken, before = await self._decide(run_id, wait_id, _EXPIRED, _EXPIRED_DIGEST)
        known = decision_of(before) if b"\n" in before else None
        if before:
            found = before.split(b"\n", 1)[0].decode(errors="replace").split(" ")
            is_same = found[1:2] in [[_decided_digest(outcome, each)] for each in same]
            status = DecideStatus.SAME if is_same else DecideStatus.CONFLICT
        elif status is DecideStatus.DECIDED:
            status, known = DecideStatus.CONFLICT, _EXPIRED
        return DecideResult(status, woken, known)

    async def _decide(
        self, run_id: str, wait_id: str, decision: Decision, digest: str
    ) -> tuple[DecideStatus, bool, bytes]:
        meta = {"by": decision.by, "reason": decision.reason, "token": decision.token}
        described = orjson.dumps({name: text for name, text in meta.items() if text})
        status, woken, before = await self._run(
            "decide", run_id, wait_id, decision.outcome, digest, described, decision.value
        )
        if status == b"no_run":
            raise unknown_run(run_id)
        return DecideStatus(status.decode()), bool(woken), bytes(before)

    async def list(self, run_id: str) -> list[Wait]:
        """Return the run's undecided waits by id."""
        flat, decisions = await self._connection.execute_all(
            ("HGETALL", self._key("waits", run_id)), ("HGETALL", self._key("decisions", run_id))
        )
        waits = stored_waits(flat, decisions)
        return [
            wait.spec.shown(wait.id, run_id, wait.opened_ms, wait.expires_ms)
            for wait in waits
            if wait.decision is None
        ]

    async def last_decided(self, run_id: str) -> str | None:
        """Return the id of the newest wait that someone answered or rejected; None without one."""
        flat = await self._connection.execute("HGETALL", self._key("decisions", run_id))
        ids = [
            int(wait_id)
            for wait_id, stored in zip(flat[::2], flat[1::2], strict=True)
            if wait_id.isdigit() and stored.startswith((b"answered ", b"rejected "))
        ]
        return str(max(ids)) if ids else None

    async def send(self, run_id: str, message: bytes) -> SendResult:
        """Put a message (`InboxMessage.packed`) into the run's inbox.

        Raises InboxFullError and UnknownRunError.
        """
        what, woken = await self._run("send", run_id, message, os.urandom(8).hex())
        if what == b"unknown":
            raise unknown_run(run_id)
        if what == b"full":
            raise InboxFullError(
                f"run {run_id!r} has {MOST_MESSAGES} unread messages, or {MOST_INBOX_BYTES} bytes"
            )
        return SendResult(what == b"sent", bool(woken))

    async def next_message(self, run_id: str) -> bytes | None:
        """Return the next message with its line about the sender, and leave it in the inbox."""
        found = await self._connection.execute("LINDEX", self._key("inbox", run_id), 0)
        return None if found is None else bytes(found)

    async def drop_message(self, lease: Lease, message: bytes) -> WriteResult:
        """Remove that message from the inbox if it is the next: RECORDED or LOST.

        For a message that the run must not have.
        """
        reply = await self._run("drop_message", lease.run_id, lease.token, message)
        return WriteResult.RECORDED if reply else WriteResult.LOST

    async def receive(
        self, lease: Lease, seq: int, entry: Entry, wait_id: str, emitted: Mapping[str, int]
    ) -> tuple[WaitWrite, bytes | None]:
        """Take the next message, record it as the value of `entry`, and close the wait, if any.

        Returns the message's JSON, as it is recorded: the same entry gets the same message, however
        often it asks. EMPTY without a message.
        """
        reply = await self._run(
            "receive",
            lease.run_id,
            *(lease.token, seq, entry.identity, packed(entry), wait_id),
            *chain.from_iterable(emitted.items()),
        )
        status, *more = reply
        return _written([status, *more[:1]]), bytes(more[1]) if status == 1 else None


def stored_waits(flat: Sequence[bytes], decisions: Sequence[bytes]) -> list[StoredWait]:
    """Return the waits in the replies about a run's waits and decisions, by id."""
    decided = dict(zip(decisions[::2], decisions[1::2], strict=True))
    waits = [
        _wait(wait_id.decode(), stored, decided.get(wait_id))
        for wait_id, stored in zip(flat[::2], flat[1::2], strict=True)
    ]
    return sorted(waits, key=lambda wait: int(wait.id))


def decision_of(stored: bytes) -> Decision:
    """Return a stored decision. Producers may write anything: an invalid one has no value."""
    first, second, value = (*stored.split(b"\n", 2), b"", b"")[:3]
    try:
        outcome = WaitOutcome(first.split(b" ")[0].decode())
        meta = orjson.loads(second)
        texts = {name: str(meta.get(name, "")) for name in ("reason", "by", "token")}
    except (ValueError, AttributeError):
        return Decision(WaitOutcome.ANSWERED, value=b"")
    return Decision(outcome, value=value, **texts)


def _wait(wait_id: str, stored: bytes, decision: bytes | None) -> StoredWait:
    first, second, third = stored.split(b"\n", 2)
    _, expires, opened, called, *_ = first.decode().split(" ")
    private, shown = orjson.loads(second), orjson.loads(third)
    spec = WaitSpec(
        identity=private["identity"],
        kind=WaitKind(shown["kind"]),
        name=shown["name"],
        question=shown["question"],
        schema=shown["value_schema"],
        scopes=tuple(private["scopes"]),
        seconds=private["seconds"],
        call="" if called == "-" else called,
        secret="answer_key" in private,
        answer_key=AnswerKey(**private["answer_key"]) if "answer_key" in private else None,
    )
    return StoredWait(
        wait_id,
        spec,
        int(opened),
        None if expires == "-" else int(expires),
        None if decision is None else decision_of(decision),
    )


def _private(spec: WaitSpec) -> bytes:
    private: dict[str, Any] = {
        "identity": spec.identity,
        "scopes": spec.scopes,
        "seconds": spec.seconds,
    }
    if spec.answer_key is not None:
        private["answer_key"] = spec.answer_key.model_dump()
    return orjson.dumps(private)


def _payload(spec: WaitSpec) -> bytes:
    schema = None if spec.schema is None else dict(spec.schema)
    return orjson.dumps(
        {
            "kind": spec.kind,
            "name": spec.name,
            "question": spec.question,
            "value_schema": schema,
        }
    )


def _question(spec: WaitSpec) -> str:
    """Return a digest of all that makes a wait the same one, besides its identity."""
    same = [spec.kind, spec.question, spec.schema and dict(spec.schema), spec.scopes, spec.call]
    if spec.answer_key is not None:
        # An answer that was encrypted for another key cannot be read.
        same.append(spec.answer_key.id)
    return _short(orjson.dumps(same, option=orjson.OPT_SORT_KEYS))


def _decided_digest(outcome: WaitOutcome, same: bytes) -> str:
    if outcome is WaitOutcome.EXPIRED:
        return _EXPIRED_DIGEST
    return _short(f"{outcome}\0".encode() + same)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _written(reply: Sequence[Any]) -> WaitWrite:
    status, *seq = reply
    results = {1: WriteResult.RECORDED, 2: WriteResult.EMPTY, 0: WriteResult.LOST}
    result = results.get(status, WriteResult.GAP)
    return WaitWrite(result, int(seq[0]) if seq else 0)
