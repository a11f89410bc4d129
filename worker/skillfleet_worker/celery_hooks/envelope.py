"""Validation of the envelope of a Celery message, before Celery processes it.

Celery trusts most of the envelope and fails later, often after it has acknowledged the message.
"""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Annotated, Any

from celery.utils.time import maybe_iso8601
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
)

from skillfleet_ledger import Settings

_LATEST = timedelta(days=3653)
_SHOWN_PROBLEMS = 3

Name = Annotated[StrictStr, Field(pattern=r"^[^\s\x00-\x1f\x7f]+$", min_length=1, max_length=255)]
Seconds = Annotated[StrictInt | StrictFloat, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Headers(_Part):
    """The headers of Celery's message protocol 2 that a worker uses."""

    task: Name
    id: Name
    root_id: StrictStr | None = None
    parent_id: StrictStr | None = None
    group: StrictStr | None = None
    group_index: StrictInt | None = None
    shadow: StrictStr | None = None
    lang: StrictStr | None = None
    origin: StrictStr | None = None
    meth: StrictStr | None = None
    argsrepr: StrictStr | None = None
    kwargsrepr: StrictStr | None = None
    retries: Annotated[StrictInt, Field(ge=0)] | None = None
    replaced_task_nesting: Annotated[StrictInt, Field(ge=0)] | None = None
    timelimit: Annotated[list[Seconds | None], Field(min_length=2, max_length=2)] | None = None
    eta: StrictStr | None = None
    expires: StrictStr | None = None
    ignore_result: StrictBool | None = None
    stamped_headers: list[StrictStr] | None = None
    stamps: dict[StrictStr, Any] | None = None

    @field_validator("eta", "expires")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None:
            moment: Any = maybe_iso8601(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            try:
                late = moment > datetime.now(UTC) + _LATEST
            except OverflowError:
                late = True
            if late:
                raise ValueError("more than ten years from now")
        return value


class _Names(_Part):
    task: Name
    id: Name


class DeliveryInfo(_Part):
    """The origin of a message."""

    exchange: StrictStr | None = None
    routing_key: StrictStr | None = None


class Properties(_Part):
    """The properties of a message that a worker uses."""

    correlation_id: StrictStr | None = None
    reply_to: StrictStr | None = None
    priority: StrictInt | None = None


class Envelope(_Part):
    """Headers, properties and origin of a message."""

    headers: Headers
    properties: Properties
    delivery_info: DeliveryInfo


class Embedded(_Part):
    """The canvas in a message's body: what Celery starts after the task."""

    callbacks: list[dict[StrictStr, Any]] | None = None
    errbacks: list[dict[StrictStr, Any]] | None = None
    chain: list[dict[StrictStr, Any]] | None = None
    chord: dict[StrictStr, Any] | None = None


def most_message_bytes(settings: Settings) -> int:
    """Return the maximum size of a message in bytes, with the envelope of its arguments.

    Arguments take up to four times their bytes, as escaped JSON in base64.
    """
    return 4 * settings.max_arguments_bytes + 256 * 1024


def problem_of(message: Any, most_bytes: int) -> str | None:
    """Return the problem of a message that names its task; None if it is valid."""
    if message.body is not None and len(message.body) > most_bytes:
        return f"it has {len(message.body)} bytes, the limit is {most_bytes}"
    return _problem(
        Envelope,
        {
            "headers": message.headers,
            "properties": message.properties or {},
            "delivery_info": message.delivery_info or {},
        },
    )


def problem_of_embedded(embedded: Any) -> str | None:
    """Return the problem of a message's canvas; None if it is valid."""
    return _problem(Embedded, embedded) if embedded else None


def readable_part(message: Any) -> SimpleNamespace | None:
    """Return headers and origin of an invalid message; None if they name no task and run."""
    headers, info = message.headers, message.delivery_info
    if not isinstance(headers, dict) or _problem(_Names, headers) is not None:
        return None
    origin = info if _problem(DeliveryInfo, info or {}) is None else {}
    return SimpleNamespace(headers=headers, delivery_info=origin)


def message_from_raw(raw: bytes) -> SimpleNamespace | None:
    """Return a message from its bytes in Redis; None if they are not a message."""
    try:
        message = json.loads(raw)
        info = message["properties"].get("delivery_info")
        return SimpleNamespace(headers=message["headers"], delivery_info=info)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _problem(model: type[BaseModel], value: Any) -> str | None:
    try:
        model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        shown = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems)
        return "; ".join(list(shown)[:_SHOWN_PROBLEMS])
    return None
