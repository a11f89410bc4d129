"""Delivery: a Celery message, from a fleet or a plain Celery client, as an attempt needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from pydantic import ValidationError

from skillfleet.arguments import json_arguments
from skillfleet.contracts import HEADER, TOKEN_HEADER, Fork, InvocationHeader, readable_token
from skillfleet.errors import InvalidArgumentsError
from skillfleet.ports.admission import IncomingCall
from skillfleet_ledger.runs.records import Submission
from skillfleet_worker.attempts.messages import (
    WORKER_TIME_LIMITS,
    PlainMessage,
    new_record,
    plain_message,
    time_limit_of,
    trace_of,
)
from skillfleet_worker.settings import WorkerSettings

# Most runs have this header, and share one object.
_PLAIN_HEADER = InvocationHeader()
_PLAIN_FIELDS = _PLAIN_HEADER.model_dump(exclude_none=True)
MOST_HEADER_BYTES: Final = 16 * 1024
"""The largest invocation header that is parsed."""


@dataclass(frozen=True)
class Delivery:
    """One delivery of a run's message. `header` is None for a plain Celery client's.

    `problem` is the error of a message that cannot be executed, `auth` has the caller's claims,
    `token` proves them.
    """

    run_id: str
    agent: str
    skill: str
    queue: str
    arguments: dict[str, Any]
    header: InvocationHeader | None
    parent_id: str | None
    root_id: str
    trace: Mapping[str, str]
    problem: InvalidArgumentsError | None = None
    token: str | None = field(default=None, repr=False)
    auth: Mapping[str, Any] | None = None
    plain: PlainMessage | None = field(default=None, repr=False)
    """The part of a plain Celery client's message for the record; None for a fleet's message."""
    time_limit: float | None = None
    """The seconds that this attempt may take, by Celery's time limits."""
    worker_time_limits: tuple[float | None, float | None] = (None, None)
    """The hard and soft time limit of the worker's pool, in seconds."""

    @property
    def task(self) -> str:
        """The Celery task name."""
        return f"{self.agent}.{self.skill}"

    @property
    def depth(self) -> int:
        """The number of runs above this one in its tree."""
        return self.header.depth if self.header else 0

    @property
    def fork(self) -> Fork | None:
        """The run that this one forks."""
        return self.header.fork if self.header else None

    @property
    def call(self) -> IncomingCall:
        """The call that admission decides about."""
        return IncomingCall(
            run_id=self.run_id,
            task=self.task,
            arguments=self.arguments,
            claims=self.auth,
            token=self.token,
            parent_id=self.parent_id,
            root_id=self.root_id,
            depth=self.depth,
            plain=self.header is None,
            fork=self.fork,
        )

    def admitted(self, claims: Mapping[str, Any] | None) -> "Delivery":
        """Return the delivery with the caller's claims as they are to be believed."""
        return self if claims is self.auth else replace(self, auth=claims)

    def foreign_record(self, settings: WorkerSettings) -> Submission | None:
        """Return the record for a plain Celery client's run; None for a fleet's own message.

        The record of a fleet's own message exists until the run expired: it must not start
        again then.
        """
        if self.header is not None or self.plain is None:
            return None
        # Arguments that cannot be executed are not stored: they may be huge, or not valid JSON.
        arguments = b"{}" if self.problem else orjson.dumps(self.arguments)
        plain = self.plain
        if self.token is not None:
            plain = plain._replace(trace={**plain.trace, TOKEN_HEADER: self.token})
        return new_record(settings, self.run_id, (self.agent, self.skill), plain, arguments)


def read_delivery(
    task: str,
    request: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: Sequence[str],
    limit: int,
) -> Delivery:
    """Return the delivery in a Celery request.

    `request` holds the message's headers and what Celery adds to them. `names` are the skill's
    parameters in order: a plain client may pass values by position. `limit` is the most bytes
    that its arguments may have.
    """
    agent, _, skill = task.partition(".")
    run_id, root_id = request["id"], request.get("root_id")
    queue = (request.get("delivery_info") or {}).get("routing_key") or ""
    header: InvocationHeader | None = None
    arguments, problem = dict(kwargs), None
    try:
        header = _header(request.get(HEADER))
        arguments = _by_name(task, args, kwargs, names)
        if header is None:
            arguments = json_arguments(task, arguments, limit).plain
    except InvalidArgumentsError as error:
        problem = error
    return Delivery(
        run_id=run_id,
        agent=agent,
        skill=skill,
        queue=queue,
        arguments=arguments,
        header=header,
        parent_id=request.get("parent_id"),
        # The root of a plain Celery client may be a task that is not a run: no tree of runs.
        root_id=root_id or run_id if header else run_id,
        trace=trace_of(request),
        problem=problem,
        token=readable_token(request.get(TOKEN_HEADER)),
        auth=header.auth if header else None,
        plain=plain_message(request, queue) if header is None else None,
        time_limit=time_limit_of(request),
        worker_time_limits=request.get(WORKER_TIME_LIMITS) or (None, None),
    )


def _header(value: Any) -> InvocationHeader | None:
    if value is None:
        return None
    if value == _PLAIN_FIELDS:
        return _PLAIN_HEADER
    try:
        if len(orjson.dumps(value)) > MOST_HEADER_BYTES:
            raise InvalidArgumentsError(
                f"the message's {HEADER} header is larger than {MOST_HEADER_BYTES} bytes"
            )
        return InvocationHeader.model_validate(value)
    except (ValidationError, TypeError) as error:
        raise InvalidArgumentsError(
            f"the message's {HEADER} header is malformed: {_fields_of(error)}"
        ) from None


def _fields_of(error: ValidationError | TypeError) -> str:
    """Describe the errors without the values, which may identify the caller."""
    if not isinstance(error, ValidationError):
        return "it is not valid JSON"
    problems = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems)


def _by_name(
    task: str, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    if len(args) > len(names):
        raise InvalidArgumentsError(
            f"{task} takes {len(names)} arguments ({', '.join(names)}), got {len(args)}"
        )
    if not args:
        return dict(kwargs)
    by_position = dict(zip(names, args, strict=False))
    if twice := sorted(by_position.keys() & kwargs.keys()):
        raise InvalidArgumentsError(f"{task} got {', '.join(twice)} by position and by name")
    return by_position | dict(kwargs)
