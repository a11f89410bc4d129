"""JSON of checkpoints, with names that are not valid UTF-8."""

import json
from typing import Any

import orjson

from skillfleet.errors import CheckpointError


def to_json(value: Any) -> bytes:
    """Return the value as JSON; the same for the same value."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # A name that is not UTF-8 has lone surrogates, which orjson refuses.
        return json.dumps(value, separators=(",", ":")).encode()


def from_json(data: bytes) -> Any:
    """Return the value of `to_json`; raises CheckpointError."""
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        return json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"an object of the checkpoint is not JSON: {error}") from None
