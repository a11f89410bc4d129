"""The values that run operations take and return: submissions, claims, leases, snapshots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from skillfleet.contracts import Attempt, RunState, RunStatus, from_millis
from skillfleet.contracts.waits import WaitKind


@dataclass(frozen=True)
class Submission:
    """A new run as its producer describes it.

    `args` is the JSON object of the skill's arguments, `headers` the JSON object of the
    message headers beside Celery's own (trace context, invocation header): both are kept so
    that the run can be published again whatever happened to its message. Times are
    milliseconds; `deadline_ms` counts from the epoch by Redis time.
    """

    id: str
    agent: str
    skill: str
    queue: str
    args: bytes
    headers: bytes
    digest: str
    retention_ms: int
    max_deliveries: int
    priority: int = 0
    deadline_ms: int | None = None
    delay_ms: int = 0
    parent_id: str | None = None
    root_id: str | None = None
    parent_token: int | None = None
    """Token of the calling attempt's lease: a stale attempt makes no calls."""
    trace_id: str | None = None
    budget_calls: int | None = None
    """The most runs that this one and those below it may call."""
    budget_tokens: int | None = None
    """The most tokens that this run and those below it may report."""
    celery: bytes | None = None
    """The rest of a plain Celery client's message, as a JSON object (messages.py)."""
    canvas: str | None = None
    """`any` for a run that a plain client has linked or chained others to, `errors` for one with
    links for its failure only."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The run's tags, as `skillfleet.tags.check_tags` accepts them."""

    fork_of: str | None = None
    """The run that this one forks."""
    session: str | None = None
    """The session that the run belongs to, as `session_name` returns it."""
    on_busy: str | None = None
    """What happens while the session is busy: `reject`, `cancel_running` or `send`; None: it
    waits."""
    message: tuple[str, bytes] | None = field(default=None, repr=False)
    """For `send`: the run whose turn it is in the session, and the message for its inbox."""

    def __post_init__(self) -> None:
        if self.parent_id is not None and self.root_id is None:
            raise ValueError("root_id is missing: a called run belongs to its parent's tree")
        if self.priority < 0:
            raise ValueError(f"priority must be 0 or more, not {self.priority}")
        if self.retention_ms < 1 or self.delay_ms < 0:
            raise ValueError("retention_ms must be 1 or more, delay_ms 0 or more")

    @property
    def task(self) -> str:
        """The Celery task name."""
        return f"{self.agent}.{self.skill}"

    def changed(self, **values: Any) -> "Submission":
        """Return a copy with other values, unchecked; a tenth of the cost of `replace`."""
        copy = object.__new__(Submission)
        copy.__dict__.update(self.__dict__, **values)
        return copy

    def fields(self) -> list[Any]:
        """Return the record's fields and values, flat, as the scripts take them."""
        flat: list[Any] = [
            *("agent", self.agent, "skill", self.skill),
            *("queue", self.queue, "priority", self.priority),
            *("args", self.args, "headers", self.headers, "digest", self.digest),
            *("retention", self.retention_ms, "max_deliveries", self.max_deliveries),
        ]
        for name, value in (
            ("deadline", self.deadline_ms),
            ("parent", self.parent_id),
            ("root", self.root_id),
            ("parent_token", self.parent_token),
            ("trace", self.trace_id),
            ("budget_calls", self.budget_calls),
            ("budget_tokens", self.budget_tokens),
            ("celery", self.celery),
            ("canvas", self.canvas),
            ("tags", "\n".join(tag_lines(self.tags)) or None),
            ("fork_of", self.fork_of),
            ("session", self.session),
            ("on_busy", self.on_busy),
        ):
            if value is not None:
                flat += (name, value)
        return flat


SESSION = "session:"
"""How the reason begins for which a session holds a run; the session's name follows."""


def tag_lines(tags: Mapping[str, str]) -> list[str]:
    """Return tags as the record keeps them, a line each: `KEY=VALUE`, sorted."""
    return sorted(f"{key}={value}" for key, value in tags.items())


def read_tags(lines: str | None) -> dict[str, str]:
    """Return the tags in a record's field."""
    pairs = (line.partition("=") for line in (lines or "").split("\n") if line)
    return {key: value for key, _, value in pairs}


class ClaimStatus(StrEnum):
    """The answer to a claim; only CLAIMED gives the right to execute."""

    CLAIMED = "claimed"
    DUPLICATE = "duplicate"
    ENDED = "ended"
    EARLY = "early"
    HELD = "held"
    CANCELLED = "cancelled"
    OVERDUE = "overdue"
    EXHAUSTED = "exhausted"
    OTHER_TENANT = "other_tenant"
    OTHER_VERSION = "other_version"
    UNKNOWN = "unknown"


class Lease(NamedTuple):
    """A worker's right to execute one attempt; `token` goes with every write."""

    run_id: str
    token: int
    attempt: int
    seq: int
    """Number of the last event in the stream when the lease was taken."""
    redis_ms: int
    """Redis time of the claim, milliseconds since the epoch."""
    deadline_ms: int | None
    waited_ms: int
    """The time that the run had waited in its queue."""
    retries: int = 0
    """The number of retries the run has had; lost and released attempts do not count."""
    rest_ms: int | None = None
    """The rest of the run's executing time, milliseconds; None without a limit."""
    version: str = ""
    """The version of the agent in the last attempt that recorded something."""
    has_journal: bool = False
    """True for a run that has recorded something, waited for something, or got a message."""
    tags: Mapping[str, str] = MappingProxyType({})


class RunLimits(NamedTuple):
    """The limits that a skill declares for its runs; 0 means undeclared.

    The timeout (milliseconds) counts the executing time of all attempts together; of a lost one,
    what its worker last reported.
    """

    timeout_ms: int = 0
    max_deliveries: int = 0


class Claim(NamedTuple):
    """The answer to a claim: a lease when CLAIMED, else the reason for the refusal."""

    status: ClaimStatus
    token: int
    lease: Lease | None = None
    detail: str = ""
    code: str = ""
    """The reason code of one that is CANCELLED; `detail` is the reason."""


class WriteResult(StrEnum):
    """The answer to a write that needs the attempt's lease.

    GAP: events are missing before it. REFUSED: the run has something to continue with, so that it
    is not parked. EMPTY: there is no message.
    """

    SETTLED = "settled"
    REQUEUED = "requeued"
    PARKED = "parked"
    RECORDED = "recorded"
    EMPTY = "empty"
    REFUSED = "refused"
    LOST = "lost"
    GAP = "gap"


class Settled(NamedTuple):
    """The answer to `Leases.settle`.

    `woken` are the runs that the end has made ready, which `Ledger.woken` has published by now.
    """

    result: WriteResult
    woken: tuple[str, ...] = ()


class EndResult(StrEnum):
    """The answer to `Leases.end_unclaimed`."""

    ENDED_NOW = "ended_now"
    ENDED_BEFORE = "ended_before"
    CHANGED = "changed"
    UNKNOWN = "unknown"


class Invocation(NamedTuple):
    """The fields from which the message of an existing run is built again."""

    id: str
    task: str
    queue: str
    priority: int
    args: bytes
    headers: bytes
    parent_id: str | None
    root_id: str
    deadline_ms: int | None
    cancel_reason: str | None = None
    cancel_code: str | None = None
    """The reason for the run's end, once it was requested."""
    celery: bytes | None = None
    """See `Submission.celery`."""
    has_ended: bool = False
    """True for the message of a run that has ended and whose canvas continues."""
    has_journal: bool = False
    """True for a run that resumes: it goes ahead of new ones."""


INVOCATION_FIELDS = (
    "agent",
    "skill",
    "queue",
    "priority",
    "args",
    "headers",
    "parent",
    "root",
    "deadline",
    "cancel",
    "cancel_code",
    "celery",
    "canvas_tries",
    "journal",
)


def invocation_of(run_id: str, values: list[bytes | None]) -> Invocation | None:
    """Return the invocation in a record's `INVOCATION_FIELDS`; None when there is no record."""
    record = {
        name: value
        for name, value in zip(INVOCATION_FIELDS, values, strict=True)
        if value is not None
    }
    if "agent" not in record:
        return None
    return Invocation(
        id=run_id,
        task=f"{_text(record, 'agent')}.{_text(record, 'skill')}",
        queue=_text(record, "queue") or "",
        priority=_number(record, "priority") or 0,
        args=record["args"],
        headers=record["headers"],
        parent_id=_text(record, "parent"),
        root_id=_text(record, "root") or run_id,
        deadline_ms=_number(record, "deadline"),
        cancel_reason=_text(record, "cancel"),
        cancel_code=_text(record, "cancel_code"),
        celery=record.get("celery"),
        has_ended="canvas_tries" in record,
        has_journal="journal" in record,
    )


STATUS_FIELDS = (
    *("state", "waiting", "held", "agent", "skill", "queue", "code", "message", "attempt"),
    *("retries", "worker", "created", "started", "finished", "deadline", "due", "cancel"),
    *("parent", "root", "fork_of", "seq", "trace", "tags", "session"),
)
"""The fields of a record that its snapshot has."""


def status_of(
    run_id: str, values: Sequence[bytes | None], attempts: list[bytes], children: int
) -> RunStatus | None:
    """Return the snapshot of a record's STATUS_FIELDS; None for one without a readable state.

    A producer's Redis user may write any value into a record: what is unreadable is left out, so
    that one record never breaks a listing.
    """
    pairs = zip(STATUS_FIELDS, values, strict=True)
    record = {name: value for name, value in pairs if value is not None}
    try:
        state = shown_state(record.get("state", b""), record.get("waiting"))
    except ValueError:
        return None
    is_parked = record.get("state") == RunState.WAITING.encode()
    return RunStatus(
        id=run_id,
        agent=_text(record, "agent") or "",
        skill=_text(record, "skill") or "",
        state=state,
        queue=_text(record, "queue") or "",
        code=_text(record, "code"),
        message=_text(record, "message"),
        attempt=_number(record, "attempt") or 0,
        retries=_number(record, "retries") or 0,
        held=_shown_reason(_text(record, "held")),
        worker=_text(record, "worker"),
        created_at=_time(record, "created") or from_millis(0),
        started_at=_time(record, "started"),
        finished_at=_time(record, "finished"),
        deadline=_time(record, "deadline"),
        due_at=_time(record, "due"),
        cancel_requested=_text(record, "cancel"),
        parent_id=_text(record, "parent"),
        root_id=_text(record, "root") or run_id,
        fork_of=_text(record, "fork_of"),
        children=children,
        events=_number(record, "seq") or 0,
        trace_id=_text(record, "trace"),
        session=session_id_of(_text(record, "session")),
        tags=read_tags(_text(record, "tags")),
        attempts=attempts_of(record, [orjson.loads(entry) for entry in attempts]),
        waits=() if state.terminal else _waits_of(record),
        parked=is_parked,
    )


def shown_state(state: bytes, waiting: bytes | None) -> RunState:
    """Return the state that a run shows: a running one that waits is waiting.

    `waiting` is the field of the record. Raises ValueError.
    """
    stored = RunState(state.decode())
    return RunState.WAITING if stored is RunState.RUNNING and waiting else stored


def _waits_of(record: Mapping[str, bytes]) -> tuple[WaitKind, ...]:
    kinds = (_text(record, "waiting") or "").split(",")
    return tuple(kind for kind in WaitKind if kind in kinds)


def session_id_of(name: str | None) -> str | None:
    """Return the id in a session's name; None without one."""
    return None if name is None else name.partition("/")[2]


def _shown_reason(reason: str | None) -> str | None:
    """Return the reason for which a run is held, without the owner of its session."""
    if reason is None or not reason.startswith(SESSION):
        return reason
    return f"{SESSION}{session_id_of(reason)}"


def attempts_of(
    record: Mapping[str, bytes], listed: Sequence[Mapping[str, Any]]
) -> tuple[Attempt, ...]:
    """Return all attempts of a run: those listed, and the current or last one of the record."""
    known = [attempt_of(entry) for entry in listed]
    number, state = _number(record, "attempt") or 0, RunState(_text(record, "state") or "")
    started, finished = _number(record, "started"), _number(record, "finished")
    # Read a moment later than the record, the list may know more. A producer could write a
    # number into a record, but no list.
    if number > (known[-1].number if known else 0) and "worker" in record and started is not None:
        ended = {"ended": finished, "outcome": state} if state.terminal and finished else {}
        last = {"worker": _text(record, "worker"), "started": started, **ended}
        known.append(attempt_of({"number": number, **last}))
    return tuple(known)


def attempt_of(entry: Mapping[str, Any]) -> Attempt:
    """Return an entry of the list of attempts."""
    return Attempt(
        number=entry["number"],
        worker=entry["worker"],
        started_at=_moment(entry["started"]) or from_millis(0),
        ended_at=_moment(entry["ended"]) if "ended" in entry else None,
        outcome=entry.get("outcome"),
    )


def _text(record: Mapping[str, bytes], name: str) -> str | None:
    return record[name].decode(errors="replace") if name in record else None


def _number(record: Mapping[str, bytes], name: str) -> int | None:
    """Return a field's whole number; None where it is missing or not a number of 64 bits."""
    try:
        number = int(record[name]) if name in record else None
    except ValueError:
        return None
    return number if number is None or -(2**63) <= number < 2**63 else None


def _time(record: Mapping[str, bytes], name: str) -> datetime | None:
    millis = _number(record, name)
    return None if millis is None else _moment(millis)


def _moment(millis: float) -> datetime | None:
    """Return a time in milliseconds since the epoch; None beyond the years that `datetime` has."""
    try:
        return from_millis(millis)
    except (ValueError, OverflowError, OSError):
        return None
