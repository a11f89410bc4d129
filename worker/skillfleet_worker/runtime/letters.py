"""Messages that are no attempts (yet): what can be told of them, and of the runs behind them."""

from collections.abc import Mapping
from typing import Any

import orjson

from skillfleet.contracts import HEADER
from skillfleet.errors import InvalidArgumentsError, UnknownRunError
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.records import Submission
from skillfleet_producer.submission import split_task
from skillfleet_producer.tracing import callers_trace_id

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
_LONGEST_ID = 255


def adoption_of(message: Any, settings: Settings, *, of_anyone: bool = False) -> Submission | None:
    """The record for the run of a plain Celery client's message, without its arguments.

    None for a message without the id of a run and the name of a skill, and for a fleet's own,
    whose record exists until the run expired, unless `of_anyone`.
    """
    headers = message.headers or {}
    run_id = headers.get("id")
    if not isinstance(run_id, str) or not 0 < len(run_id) <= _LONGEST_ID:
        return None
    if HEADER in headers and not of_anyone:
        return None
    try:
        agent, skill = split_task(headers.get("task"))
    except InvalidArgumentsError:
        return None
    queue = (message.delivery_info or {}).get("routing_key") or settings.default_queue
    return new_record(settings, run_id, (agent, skill), queue, trace_of(headers))


def new_record(
    settings: Settings,
    run_id: str,
    skill: tuple[str, str],
    queue: str,
    trace: Mapping[str, str],
    arguments: bytes = b"{}",
) -> Submission:
    """The record of a run that a plain Celery client sent; `skill` is agent and skill."""
    return Submission(
        id=run_id,
        agent=skill[0],
        skill=skill[1],
        queue=queue,
        args=arguments,
        headers=orjson.dumps(dict(trace)),
        digest="",
        retention_ms=int(settings.retention_seconds * 1000),
        max_deliveries=settings.max_deliveries,
        trace_id=callers_trace_id(trace),
    )


async def adopt(ledger: Ledger, adoption: Submission) -> bool:
    """Write the record of a plain client's run; False when there is one."""
    try:
        await ledger.runs.state(adoption.id)
    except UnknownRunError:
        return await ledger.runs.submit(adoption)
    return False


def body_of(message: Any) -> bytes:
    """A message's body as it came."""
    body = message.body
    return bytes(body) if isinstance(body, bytes | memoryview) else str(body).encode()


def trace_of(headers: Mapping[str, Any]) -> dict[str, str]:
    """The W3C trace context among message headers."""
    found = {}
    for name in TRACE_HEADERS:
        value = headers.get(name)
        if isinstance(value, str):
            found[name] = value
    return found
