"""What may stand around a task in a Celery message: checked before Celery looks at it.

Celery believes most of it, and finds out at some later place what is wrong, often behind the
message's acknowledgement.
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
    """The headers of Celery's message protocol 2, as far as a worker uses them."""

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
    """Where a message came from."""

    exchange: StrictStr | None = None
    routing_key: StrictStr | None = None


class Properties(_Part):
    """The properties of a message, as far as a worker uses them."""

    correlation_id: StrictStr | None = None
    reply_to: StrictStr | None = None
    priority: StrictInt | None = None


class Envelope(_Part):
    """All of it."""

    headers: Headers
    properties: Properties
    delivery_info: DeliveryInfo


class Embedded(_Part):
    """What stands beside the arguments in a body: what goes on after the task."""

    callbacks: list[dict[StrictStr, Any]] | None = None
    errbacks: list[dict[StrictStr, Any]] | None = None
    chain: list[dict[StrictStr, Any]] | None = None
    chord: dict[StrictStr, Any] | None = None


def most_message_bytes(settings: Settings) -> int:
    """How large a message may be at the most, with all that stands around its arguments.

    Arguments take up to four times their bytes, as escaped JSON in base64.
    """
    return 4 * settings.max_arguments_bytes + 256 * 1024


def problem_of(message: Any, most_bytes: int) -> str | None:
    """What is wrong with a message that says which task it is for; None when nothing is."""
    if message.body is not None and len(message.body) > most_bytes:
        return f"it has {len(message.body)} bytes, the limit is {most_bytes}"
    return _refusal(
        Envelope,
        {
            "headers": message.headers,
            "properties": message.properties or {},
            "delivery_info": message.delivery_info or {},
        },
    )


def problem_of_embedded(embedded: Any) -> str | None:
    """What is wrong with what stands beside the arguments; None when nothing is."""
    return _refusal(Embedded, embedded) if embedded else None


def legible_part(message: Any) -> SimpleNamespace | None:
    """Headers and origin of a message that was refused; None where they name no task and run."""
    headers, info = message.headers, message.delivery_info
    if not isinstance(headers, dict) or _refusal(_Names, headers) is not None:
        return None
    origin = info if _refusal(DeliveryInfo, info or {}) is None else {}
    return SimpleNamespace(headers=headers, delivery_info=origin)


def undecoded(raw: bytes) -> SimpleNamespace | None:
    """A message as it lay on Redis; None where it is not one."""
    try:
        message = json.loads(raw)
        info = message["properties"].get("delivery_info")
        return SimpleNamespace(headers=message["headers"], delivery_info=info)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _refusal(model: type[BaseModel], value: Any) -> str | None:
    try:
        model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        told = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems)
        return "; ".join(list(told)[:_SHOWN_PROBLEMS])
    return None
