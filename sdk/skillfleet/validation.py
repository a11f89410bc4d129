"""The checks that every runtime applies to events, artifacts and results."""

import re
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import orjson
from pydantic_core import to_jsonable_python

from skillfleet.contracts import RESERVED_KINDS, Limits
from skillfleet.errors import (
    ArtifactTooLargeError,
    EventTooLargeError,
    InvalidArtifactError,
    InvalidEventError,
    ResultTooLargeError,
)
from skillfleet.types import AgentEvent

ArtifactData = bytes | bytearray | memoryview | Iterable[bytes] | AsyncIterable[bytes]
"""The bytes of an artifact: whole, or in pieces that are read one after another."""

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")
_MIME_TYPE = re.compile(
    r"[\w.+-]+/[\w.+*-]+( *; *[\w.+-]+=([\w.+-]+|\"[^\"\\\x00-\x1f]*\"))*", re.ASCII
)
_LONGEST_NAME = 255


def event_json(event: AgentEvent, limits: Limits) -> bytes:
    """Return the event's payload as a JSON object, after all checks.

    Raises `InvalidEventError` or `EventTooLargeError`.
    """
    if not isinstance(event, AgentEvent):
        raise InvalidEventError(
            f"emit_event takes an AgentEvent, got {type(event).__name__}: "
            "write AgentEvent(kind=..., payload={...})"
        )
    _check_kind(event.kind)
    payload = _payload_json(event)
    if len(payload) > limits.event_bytes:
        raise EventTooLargeError(
            f"the payload of event {event.kind!r} has {len(payload)} bytes, allowed are "
            f"{limits.event_bytes}: write the data as an artifact and emit its reference"
        )
    return payload


def check_result_size(task: str, result: Any, limit: int) -> None:
    """Raise `ResultTooLargeError` for a plain JSON value that is larger than `limit` bytes."""
    size = len(orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS))
    if size > limit:
        raise ResultTooLargeError(
            f"the result of {task} is {size} bytes, the limit is {limit}"
            " (SKILLFLEET_MAX_RESULT_BYTES): write it as an artifact"
        )


def _check_kind(kind: Any) -> None:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise InvalidEventError(
            f"event kind {kind!r} must start with a letter and hold at most 100 letters, "
            "digits, '_', '.', ':' or '-'"
        )
    if kind in RESERVED_KINDS:
        raise InvalidEventError(f"event kind {kind!r} is reserved for the fleet: choose another")


def _payload_json(event: AgentEvent) -> bytes:
    try:
        payload = orjson.dumps(event.payload, default=to_jsonable_python)
    except orjson.JSONEncodeError as error:
        cause = error.__cause__ or error
        raise InvalidEventError(
            f"the payload of event {event.kind!r} cannot be written as JSON: {cause}"
        ) from None
    if not payload.startswith(b"{"):
        raise InvalidEventError(
            f"the payload of event {event.kind!r} must be a dict, "
            f"got {type(event.payload).__name__}"
        )
    return payload


def check_artifact_name(name: str) -> None:
    """Raise `InvalidArtifactError` unless `name` is safe as a relative path of a file."""
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidArtifactError(
            f"an artifact's name must be a str of 1 to {_LONGEST_NAME} characters, got {name!r}"
        )
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise InvalidArtifactError(f"artifact name {name!r} holds control characters")
    if any(part in {"", ".", ".."} for part in name.replace("\\", "/").split("/")):
        raise InvalidArtifactError(
            f"artifact name {name!r} must be a relative path without empty parts, '.' or '..', "
            "such as 'report.md' or 'charts/lines.svg'"
        )


def check_mime_type(mime_type: str) -> None:
    """Raise `InvalidArtifactError` unless `mime_type` is a media type like "text/plain"."""
    if (
        not isinstance(mime_type, str)
        or len(mime_type) > _LONGEST_NAME
        or not _MIME_TYPE.fullmatch(mime_type)
    ):
        raise InvalidArtifactError(
            f"media type {mime_type!r} is not of the form 'type/subtype', such as 'text/plain'"
        )


async def artifact_chunks(name: str, data: ArtifactData, limit: int) -> AsyncIterator[bytes]:
    """Yield the non-empty pieces of `data`, as bytes.

    Raises `InvalidArtifactError` for a piece that is not bytes, and `ArtifactTooLargeError`
    before the piece that exceeds `limit` bytes in all.
    """
    size = 0
    async for piece in _pieces(name, data):
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidArtifactError(
                f"artifact {name!r} must be bytes, got {type(piece).__name__}: "
                "encode text with .encode()"
            )
        chunk = bytes(piece)
        size += len(chunk)
        if size > limit:
            raise ArtifactTooLargeError(
                f"artifact {name!r} exceeds the limit of {limit} bytes: split it or compress it"
            )
        if chunk:
            yield chunk


async def _pieces(name: str, data: Any) -> AsyncIterator[Any]:
    if isinstance(data, bytes | bytearray | memoryview | str):
        yield data
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            yield piece
    elif isinstance(data, Iterable):
        for piece in data:
            yield piece
    else:
        raise InvalidArtifactError(
            f"artifact {name!r} must be bytes or an iterable of bytes, got {type(data).__name__}"
        )
