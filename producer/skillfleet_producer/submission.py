"""The building of a run's record from the arguments of `enqueue`."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from skillfleet.arguments import check_seconds, json_arguments
from skillfleet.contracts import HEADER, Budget, Fork, InvocationHeader
from skillfleet.errors import InvalidArgumentsError
from skillfleet.failures import error_text
from skillfleet.jsonable import NotJsonError, to_json
from skillfleet.tags import TENANT, check_tags, value_problem
from skillfleet.texts import plain_text
from skillfleet_ledger import Settings
from skillfleet_ledger.keys import Keyspace
from skillfleet_ledger.runs.records import Invocation, Submission
from skillfleet_ledger.runs.sessions import session_name
from skillfleet_producer.routes import Route, accept_any

_TASK_NAME = re.compile(r"^([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{1,128})$")
_PRIORITY_STEPS = (0, 3, 6, 9)
_PRIORITIES = range(10)
_MOST_TEXT_CHARS = 255
OnBusy = Literal["queue", "reject", "cancel_running", "send"]
"""What happens to a run of a session that has one already: it waits, is refused, waits until the
running one is cancelled, or becomes a message to it."""
ON_BUSY = get_args(OnBusy)


class EnqueueOptions(TypedDict, total=False):
    """The keyword arguments of `enqueue`: the fields of `Options`."""

    auth: BaseModel | Mapping[str, Any] | None
    idempotency_key: str | None
    timeout: float | None
    delay: float | None
    priority: int | None
    queue: str | None
    budget: Budget | None
    tags: Mapping[str, str] | None
    session: str | None
    on_busy: OnBusy


@dataclass(frozen=True)
class Options:
    """The options of a run, beside its skill and arguments; times in seconds."""

    auth: BaseModel | Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    timeout: float | None = None
    delay: float | None = None
    priority: int | None = None
    queue: str | None = None
    budget: Budget | None = None
    tags: Mapping[str, str] | None = None
    session: str | None = None
    on_busy: OnBusy = "queue"

    def __post_init__(self) -> None:
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        if self.delay is not None:
            check_seconds("delay", self.delay, or_zero=True)
        if self.priority is not None and self.priority not in _PRIORITIES:
            raise InvalidArgumentsError(
                f"priority must be 0 (most urgent) to 9, not {self.priority!r}"
            )
        check_text("idempotency_key", self.idempotency_key)
        check_text("queue", self.queue)
        check_text("session", self.session)
        if self.on_busy not in ON_BUSY:
            allowed = ", ".join(ON_BUSY)
            raise InvalidArgumentsError(f"on_busy must be {allowed}, not {self.on_busy!r}")
        if self.session is None and self.on_busy != "queue":
            raise InvalidArgumentsError("on_busy needs a session")
        if self.session is not None and self.delay:
            raise InvalidArgumentsError(
                "a run of a session cannot be delayed: it would keep those after it waiting"
            )
        if not isinstance(self.budget, Budget | None):
            raise InvalidArgumentsError(f"budget must be a Budget, not {self.budget!r}")
        if self.tags is not None:
            # A copy: the caller may change its own.
            object.__setattr__(self, "tags", check_tags(self.tags))


def check_text(name: str, text: Any) -> None:
    """Raise InvalidArgumentsError for an option that is not a short string; None is fine."""
    if text is None:
        return
    if not isinstance(text, str) or not 1 <= len(text) <= _MOST_TEXT_CHARS:
        raise InvalidArgumentsError(
            f"{name} must be a string of 1 to {_MOST_TEXT_CHARS} characters"
        )
    if not text.isascii() and plain_text(text) != text:
        raise InvalidArgumentsError(f"{name} holds a lone surrogate: {plain_text(text)}")


@dataclass(frozen=True)
class Parent:
    """The run that calls this one; the same `call` of a run is the same child."""

    run_id: str
    root_id: str
    depth: int
    call: str
    token: int
    """The token of the calling attempt's lease."""
    deadline_ms: int | None = None
    budget_end_ms: int | None = None
    allowance_ms: int | None = None
    """The rest of its executing time, where that stands while it waits for the called run."""
    grant: str | None = field(default=None, repr=False)
    """The token of the grant that it hands over."""


def split_task(skill: object) -> tuple[str, str]:
    """Return agent and skill of a task name, or of a skill object of the SDK.

    Raises InvalidArgumentsError for a name that is not `<agent>.<skill>`.
    """
    name = getattr(getattr(skill, "spec", None), "task_name", skill)
    match = _TASK_NAME.match(name) if isinstance(name, str) else None
    if match is None:
        raise InvalidArgumentsError(f"a skill is named '<agent>.<skill>', not {name!r}")
    return match[1], match[2]


class Call(NamedTuple):
    """A requested call: an agent's skill with encoded arguments, and the queue for it.

    `digest` is the arguments' identity: independent of the order of their names.
    """

    agent: str
    skill: str
    args: bytes
    digest: str
    queue: str | None


def read_call(
    settings: Settings,
    agent: str,
    skill: str,
    arguments: Mapping[str, Any],
    route: Route = accept_any,
) -> Call:
    """Return a call of `skill` that `route` accepts; raises InvalidArgumentsError."""
    json = json_arguments(f"{agent}.{skill}", arguments, settings.max_arguments_bytes)
    canonical = orjson.dumps(json.plain, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(canonical).hexdigest()[:32]
    return Call(agent, skill, json.encoded, digest, route(json.plain))


def build_submission(
    settings: Settings,
    call: Call,
    options: Options,
    now_ms: float,
    parent: Parent | None = None,
    claims: dict[str, Any] | None = None,
) -> Submission:
    """Return the record of a new run; `now_ms` is Redis time, `claims` are the caller's."""
    agent, name, args, digest, queue = call
    keys = settings.keyspace
    budget = options.budget
    budget_end = _budget_end_ms(options, now_ms, parent)
    deadline = _deadline_ms(options, now_ms, parent, budget_end)
    header = _header(
        deadline_ms=deadline,
        auth=claims,
        budget_end_ms=budget_end,
        allowance_ms=parent.allowance_ms if parent else None,
        session=options.session,
        depth=parent.depth + 1 if parent else 0,
        grant=parent.grant if parent else None,
    )
    session = None
    if options.session is not None:
        session = session_name(settings, options.session, claims)
    if parent is not None:
        run_id = keys.child_id(parent.run_id, f"{agent}.{name}\0{parent.call}")
    elif options.idempotency_key is not None:
        run_id = keys.key_id(f"{agent}.{name}", options.idempotency_key, session)
    else:
        run_id = keys.new_id(session)
    return Submission(
        id=run_id,
        agent=agent,
        skill=name,
        queue=options.queue or queue or settings.default_queue,
        args=args,
        headers=header,
        digest=digest,
        retention_ms=int(settings.retention_seconds * 1000),
        max_deliveries=settings.max_deliveries,
        priority=priority_step(options.priority) if options.priority else 0,
        deadline_ms=deadline,
        delay_ms=int((options.delay or 0) * 1000),
        parent_id=parent.run_id if parent else None,
        root_id=parent.root_id if parent else None,
        parent_token=parent.token if parent else None,
        budget_calls=budget.calls if budget else None,
        budget_tokens=budget.tokens if budget else None,
        tags=_tags(settings, options, claims, parent),
        session=session,
        on_busy=options.on_busy if options.on_busy != "queue" else None,
    )


def _tags(
    settings: Settings, options: Options, claims: Mapping[str, Any] | None, parent: Parent | None
) -> Mapping[str, str]:
    """Return those given, and the tenant of the caller; a child has the tags of its parent."""
    given, claim = options.tags or {}, settings.tenant_claim
    if claim is None or parent is not None:
        return given
    tenant = (claims or {}).get(claim)
    if TENANT in given and given[TENANT] != tenant:
        raise InvalidArgumentsError(
            f"tags: {TENANT!r} is the claim {claim!r} of the caller (SKILLFLEET_TENANT_CLAIM): it"
            " cannot have another value"
        )
    if tenant is None:
        return given
    if (problem := value_problem(tenant)) is not None:
        raise InvalidArgumentsError(f"auth: the claim {claim!r}, the run's tenant, {problem}")
    return check_tags({**given, TENANT: tenant})


def fork_submission(new: Submission, fork: Fork, keys: Keyspace) -> Submission:
    """Return a new run as a fork of another one: on its shard; record and header say so."""
    headers = orjson.loads(new.headers)
    headers[HEADER]["fork"] = fork.model_dump(exclude_none=True)
    run_id = keys.new_id(beside=fork.run)
    return new.changed(id=run_id, headers=orjson.dumps(headers), fork_of=fork.run)


def claims_of(auth: BaseModel | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the caller's claims as plain JSON values; raises InvalidArgumentsError."""
    if auth is None:
        return None
    if not isinstance(auth, BaseModel | Mapping):
        kind = type(auth).__name__
        raise InvalidArgumentsError(f"auth must be claims by name, or a model of them, not {kind}")
    try:
        # By the names of the fields, as a model of claims is read; sets of scopes as lists.
        named = auth.model_dump(mode="json") if isinstance(auth, BaseModel) else dict(auth)
        claims: dict[str, Any] = to_json(to_jsonable_python(named, inf_nan_mode="constants")).plain
    except NotJsonError as error:
        raise InvalidArgumentsError(f"auth: claim {error.where!r} is not JSON: {error}") from None
    except Exception as error:  # noqa: BLE001 - the claims' own code runs here
        raise InvalidArgumentsError(f"auth: the claims are not JSON: {error_text(error)}") from None
    return claims


def invocation_from(new: Submission) -> Invocation:
    """Return what the message of a new run is built from."""
    return Invocation(
        id=new.id,
        task=new.task,
        queue=new.queue,
        priority=new.priority,
        args=new.args,
        headers=new.headers,
        parent_id=new.parent_id,
        root_id=new.root_id or new.id,
        deadline_ms=new.deadline_ms,
    )


def _header(**values: Any) -> bytes:
    """Return the JSON object with skillfleet's own header, given its fields."""
    if not any(value is not None and value != 0 for value in values.values()):
        return _PLAIN_HEADER
    return _named(InvocationHeader(**values))


def _named(header: InvocationHeader) -> bytes:
    return b'{"%s":%s}' % (HEADER.encode(), header.model_dump_json(exclude_none=True).encode())


_PLAIN_HEADER = _named(InvocationHeader())


def _budget_end_ms(options: Options, now_ms: float, parent: Parent | None) -> int | None:
    own = None
    if options.budget is not None and options.budget.seconds is not None:
        own = int(now_ms + ((options.delay or 0) + options.budget.seconds) * 1000)
    return _earliest(own, parent.budget_end_ms if parent else None)


def _deadline_ms(
    options: Options, now_ms: float, parent: Parent | None, budget_end: int | None
) -> int | None:
    own = None
    if options.timeout is not None:
        own = int(now_ms + ((options.delay or 0) + options.timeout) * 1000)
    return _earliest(own, _earliest(parent.deadline_ms if parent else None, budget_end))


def _earliest(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def priority_step(priority: int) -> int:
    """Return the priority step that kombu's Redis transport uses for a priority."""
    return max(step for step in _PRIORITY_STEPS if step <= priority)
