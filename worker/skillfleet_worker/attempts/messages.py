"""Messages of plain Celery clients, and the records of their runs (foreign runs).

Each further attempt is started by a message that is built from the record. So the record stores
everything that the client's message has: a retried, released or lost run keeps its chain, chord,
links, limits, stamps and headers.
"""

import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from kombu.utils import json as kombu_json

from skillfleet.arguments import json_arguments
from skillfleet.contracts import HEADER, TOKEN_HEADER, readable_token
from skillfleet.errors import InvalidArgumentsError, UnknownRunError
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.runs.records import Submission
from skillfleet_producer.submission import priority_step, split_task
from skillfleet_producer.tracing import callers_trace_id

TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")
TIME_LIMIT: Final = "skillfleet_time_limit"
"""Request field with the time limit of the attempt, in seconds (request.py)."""
WORKER_TIME_LIMITS: Final = "skillfleet_worker_time_limits"
"""Request field with the hard and soft time limit of the pool, in seconds (request.py)."""
REPLAYED: Final = "skillfleet_replayed"
"""Request field with the result of an execution that Celery's tracer reports (skill_task.py)."""
_LONGEST_ID = 255
_LINKS = uuid.UUID("5c1f0c3a-9c5b-4f0e-8a43-0c8f4c7f2d11")
CANVAS = ("callbacks", "errbacks", "chain", "chord")
_PROPERTIES = ("reply_to",)
# These are fields of the record, or belong to one transmission of the message.
_NOT_KEPT = frozenset(
    {
        *("id", "task", "args", "kwargs", "argsrepr", "kwargsrepr", "eta", "lang"),
        *("headers", "properties", "delivery_info", "correlation_id", "hostname", "compression"),
        *("called_directly", "is_eager", "loglevel", "logfile", "utc", "time_limit"),
        *("soft_time_limit", "taskset", "_protected", "_children", HEADER, TOKEN_HEADER),
        *(TIME_LIMIT, WORKER_TIME_LIMITS, REPLAYED, *CANVAS, *_PROPERTIES, *TRACE_HEADERS),
    }
)
# A fleet's own message has these, too (message.py).
_DEFAULTS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("shadow", "expires", "group", "group_index", "parent_id", "stamped_headers")),
    "ignore_result": None,
    "retries": 0,
    "replaced_task_nesting": 0,
    "timelimit": [None, None],
    "stamps": {},
}


class PlainMessage(NamedTuple):
    """The parts of a foreign run's message that its record stores, besides the arguments."""

    queue: str
    trace: Mapping[str, str]
    priority: int = 0
    celery: bytes | None = None
    canvas: str | None = None
    """See `Submission.canvas`."""


def plain_message(request: Mapping[str, Any], queue: str) -> PlainMessage:
    """Read a plain client's message.

    `request` holds its headers, its canvas (`callbacks`, `errbacks`, `chain`, `chord`) and what
    Celery's worker adds to them.
    """
    priority = (request.get("delivery_info") or {}).get("priority")
    step = priority_step(min(max(priority, 0), 9)) if isinstance(priority, int) else 0
    return PlainMessage(queue, trace_of(request), step, _kept(request), _canvas_kind(request))


def _canvas_kind(request: Mapping[str, Any]) -> str | None:
    if any(request.get(part) for part in ("callbacks", "chain", "chord")):
        return "any"
    return "errors" if request.get("errbacks") else None


def _kept(request: Mapping[str, Any]) -> bytes | None:
    """Return what `message.PlainPart` reads; None for a message without fields of its own."""
    defaults = {**_DEFAULTS, "root_id": request.get("id")}
    kept = {
        "headers": {
            name: value
            for name, value in request.items()
            if name not in _NOT_KEPT
            and (name not in defaults or value != defaults[name])
            and _json(value) is not None
        },
        "embed": {name: request[name] for name in CANVAS if request.get(name)},
        "properties": {name: request[name] for name in _PROPERTIES if request.get(name)},
    }
    return _json(kept) if any(kept.values()) else None


def name_links(request: Mapping[str, Any], run_id: str) -> None:
    """Give each task that is linked to a run, or chained after it, a fixed id, in place.

    A worker may die after it has published one of them, and before it could record that: sent
    again, it is the same task.
    """
    for part in ("callbacks", "errbacks", "chain"):
        for position, link in enumerate(request.get(part) or ()):
            # Groups and chains contain ids of their own, or get them when they are sent.
            if isinstance(link, dict) and not link.get("subtask_type"):
                options = link["options"] = link.get("options") or {}
                name = f"{run_id}/{part}/{position}"
                options.setdefault("task_id", str(uuid.uuid5(_LINKS, name)))


def _json(value: Any) -> bytes | None:
    """Return JSON with kombu's typed values, as in the message; None for other values."""
    try:
        return str(kombu_json.dumps(value, ensure_ascii=False)).encode()
    except (TypeError, ValueError):
        return None


def time_limit_of(request: Mapping[str, Any]) -> float | None:
    """Return the seconds that one attempt may take by Celery's limits; None without a limit.

    The soft limit counts as well: a run ends at the earlier one.
    """
    given = request.get(TIME_LIMIT) or request.get("timelimit") or ()
    limits = given if isinstance(given, list | tuple) else (given,)
    return min((limit for limit in limits if _is_limit(limit)), default=None)


def attempt_time_limit(
    request: Mapping[str, Any], task_limits: tuple[float | None, float | None]
) -> float | None:
    """Return the seconds that an attempt may take: as its message, its task or its pool say.

    Of each kind of limit, hard and soft, the message's counts before the task's, and that before
    the pool's.
    """
    pool = request.get(WORKER_TIME_LIMITS) or (None, None)
    message = request.get("timelimit") or (None, None)
    limits = zip(message, task_limits, pool, strict=True)
    return time_limit_of({"timelimit": tuple(m or t or p for m, t, p in limits)})


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def record_from_message(
    message: Any, settings: Settings, *, require_plain: bool = True
) -> Submission | None:
    """Return the record for the run of a plain Celery client's message, without its arguments.

    None for a message without the id of a run and the name of a skill, and for a fleet's own,
    whose record exists until the run expired, unless `require_plain` is false.
    """
    headers = message.headers or {}
    run_id = headers.get("id")
    if not isinstance(run_id, str) or not 0 < len(run_id) <= _LONGEST_ID:
        return None
    if HEADER in headers and require_plain:
        return None
    try:
        agent, skill = split_task(headers.get("task"))
    except InvalidArgumentsError:
        return None
    queue = (message.delivery_info or {}).get("routing_key") or settings.default_queue
    request = {**headers, **_canvas_of(message), **_properties_of(message)}
    return new_record(settings, run_id, (agent, skill), plain_message(request, queue))


def record_with_arguments(message: Any, settings: Settings) -> Submission | None:
    """Return the record for the run of a plain client's message, from which it is sent again.

    None for a message that cannot be: one with an ETA, or whose arguments are unreadable.
    """
    foreign = record_from_message(message, settings)
    if foreign is None or message.headers.get("eta"):
        return None
    most = settings.max_arguments_bytes
    try:
        args, kwargs, _ = message.payload
        positional = json_arguments(foreign.task, {"args": list(args)}, most).plain["args"]
        arguments = json_arguments(foreign.task, kwargs, most).encoded
    except Exception:  # noqa: BLE001 - the message may contain anything
        return None
    celery = foreign.celery
    if positional:
        nothing: dict[str, Any] = {"headers": {}, "embed": {}, "properties": {}}
        kept = kombu_json.loads(celery) if celery else nothing
        celery = _json(kept | {"args": positional})
    trace = orjson.loads(foreign.headers)
    if (token := readable_token(message.headers.get(TOKEN_HEADER))) is not None:
        trace[TOKEN_HEADER] = token
    return foreign.changed(args=arguments, celery=celery, headers=orjson.dumps(trace))


def _canvas_of(message: Any) -> Mapping[str, Any]:
    """Return the canvas in the body of a message; empty when the body is unreadable."""
    try:
        embedded = message.payload[2]
    except Exception:  # noqa: BLE001 - the message may contain anything
        return {}
    return embedded if isinstance(embedded, dict) else {}


def _properties_of(message: Any) -> Mapping[str, Any]:
    properties = getattr(message, "properties", None) or {}
    return {
        "reply_to": properties.get("reply_to"),
        "delivery_info": {"priority": properties.get("priority")},
    }


def new_record(
    settings: Settings,
    run_id: str,
    skill: tuple[str, str],
    message: PlainMessage,
    arguments: bytes = b"{}",
) -> Submission:
    """Return the record of a foreign run; `skill` is agent and skill."""
    return Submission(
        id=run_id,
        agent=skill[0],
        skill=skill[1],
        queue=message.queue,
        args=arguments,
        headers=orjson.dumps(dict(message.trace)),
        digest="",
        retention_ms=int(settings.retention_seconds * 1000),
        max_deliveries=settings.max_deliveries,
        priority=message.priority,
        trace_id=callers_trace_id(message.trace),
        celery=message.celery,
        canvas=message.canvas,
    )


async def register_foreign_run(ledger: Ledger, foreign: Submission) -> bool:
    """Write the record of a foreign run; False when there is one."""
    try:
        await ledger.queries.state(foreign.id)
    except UnknownRunError:
        return await ledger.submissions.submit(foreign)
    return False


def body_of(message: Any) -> bytes:
    """Return a message's body as it arrived."""
    body = message.body
    return (
        bytes(body) if isinstance(body, bytes | memoryview) else str(body).encode(errors="replace")
    )


def trace_of(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the W3C trace context among message headers."""
    found = {}
    for name in TRACE_HEADERS:
        value = headers.get(name)
        if isinstance(value, str) and _json(value) is not None:
            found[name] = value
    return found
