"""A Celery message as the runtime sees it, whoever sent it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from skillfleet.contracts import HEADER, InvocationHeader
from skillfleet.errors import InvalidArgumentsError
from skillfleet_ledger.records import Submission
from skillfleet_worker.settings import WorkerSettings

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
TRACE_HEADERS = ("traceparent", "tracestate", "baggage")


@dataclass(frozen=True)
class Delivery:
    """One delivery of a run's message. `header` is None for a plain Celery client's.

    `problem` says what is wrong with a message that cannot be executed.
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

    @property
    def task(self) -> str:
        """The Celery task name."""
        return f"{self.agent}.{self.skill}"

    @property
    def depth(self) -> int:
        """How many runs stand above this one."""
        return self.header.depth if self.header else 0

    @property
    def auth(self) -> Mapping[str, Any] | None:
        """The caller's claims."""
        return self.header.auth if self.header else None

    def adoption(self, settings: WorkerSettings) -> Submission | None:
        """The record of a run that a plain Celery client sent; None for a fleet's own message.

        The record of a fleet's own message exists until the run expired: it must not start
        again then.
        """
        if self.header is not None:
            return None
        return Submission(
            id=self.run_id,
            agent=self.agent,
            skill=self.skill,
            queue=self.queue,
            args=orjson.dumps(self.arguments, default=repr),
            headers=orjson.dumps(dict(self.trace)),
            digest="",
            retention_ms=int(settings.retention_seconds * 1000),
            max_deliveries=settings.max_deliveries,
            trace_id=trace_id(self.trace),
        )


def read_delivery(
    task: str, request: Any, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> Delivery:
    """The delivery behind a Celery task's `request` (celery.app.task.Context).

    `names` are the skill's parameters in order: a plain client may pass values by position.
    """
    agent, _, skill = task.partition(".")
    info = request.delivery_info or {}
    headers = request.headers or {}
    header: InvocationHeader | None = None
    arguments, problem = dict(kwargs), None
    try:
        header = _header(headers.get(HEADER))
        arguments = _by_name(task, args, kwargs, names)
    except InvalidArgumentsError as error:
        problem = error
    return Delivery(
        run_id=request.id,
        agent=agent,
        skill=skill,
        queue=info.get("routing_key") or "",
        arguments=arguments,
        header=header,
        parent_id=request.parent_id,
        root_id=request.root_id or request.id,
        trace={name: headers[name] for name in TRACE_HEADERS if headers.get(name)},
        problem=problem,
    )


def trace_id(trace: Mapping[str, str]) -> str | None:
    """The trace id in a W3C traceparent header (version-traceid-parentid-flags)."""
    match = _TRACEPARENT.fullmatch(trace.get("traceparent", ""))
    return match[1] if match else None


def _header(value: Any) -> InvocationHeader | None:
    if value is None:
        return None
    try:
        return InvocationHeader.model_validate(value)
    except ValidationError as error:
        raise InvalidArgumentsError(
            f"the message's {HEADER} header is malformed: {error}"
        ) from None


def _by_name(
    task: str, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    if len(args) > len(names):
        raise InvalidArgumentsError(
            f"{task} takes {len(names)} arguments ({', '.join(names)}), got {len(args)}"
        )
    by_position = dict(zip(names, args, strict=False))
    if twice := sorted(by_position.keys() & kwargs.keys()):
        raise InvalidArgumentsError(f"{task} got {', '.join(twice)} by position and by name")
    return by_position | dict(kwargs)
