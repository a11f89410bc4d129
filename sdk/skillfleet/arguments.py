"""Arguments against a skill's published schema: one check, one message, at both ends.

The producer refuses with it at `enqueue`, the worker before the first attempt, so a caller
reads the same words wherever the mistake is found.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from skillfleet.errors import ArgumentsTooLargeError, InvalidArgumentsError

_MOST_PROBLEMS = 5


def encode_arguments(task: str, arguments: Mapping[str, Any], limit: int | None = None) -> bytes:
    """The arguments as a JSON object of at most `limit` bytes.

    Raises InvalidArgumentsError naming the argument that is not JSON, and
    ArgumentsTooLargeError.
    """
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        raise InvalidArgumentsError(f"arguments of {task} must be an object by name, not {kind}")
    try:
        encoded = orjson.dumps(dict(arguments))
    except TypeError as error:
        raise InvalidArgumentsError(_no_json(task, arguments, error)) from None
    if limit is not None and len(encoded) > limit:
        raise ArgumentsTooLargeError(
            f"arguments of {task} are {len(encoded)} bytes, the limit is {limit}"
            " (SKILLFLEET_MAX_ARGUMENTS_BYTES): store large data as an artifact"
            " or elsewhere and pass its name"
        )
    return encoded


def _no_json(task: str, arguments: Mapping[str, Any], error: TypeError) -> str:
    for name, value in arguments.items():
        try:
            orjson.dumps({name: value})
        except TypeError as reason:
            return f"argument {name!r} of {task} is not JSON: {reason}"
    return f"arguments of {task} are not JSON: {error}"


def arguments_check(task: str, schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """What raises InvalidArgumentsError, naming the fields, for arguments that do not fit.

    `schema` is the skill's input schema (JSON Schema 2020-12), `task` names it in the message.
    """
    return _check(task, orjson.dumps(schema))


@lru_cache(maxsize=1024)
def _check(task: str, schema: bytes) -> Callable[[Mapping[str, Any]], None]:
    # 3 MiB that only a process which has a schema to check needs.
    import jsonschema_rs  # noqa: PLC0415

    try:
        validator = jsonschema_rs.Draft202012Validator(
            orjson.loads(schema), retriever=_retrieve_nothing
        )
    except ValueError as error:
        return _refusing(f"the schema that {task} publishes cannot be used: {error}")

    def check(arguments: Mapping[str, Any]) -> None:
        given = dict(arguments)
        if validator.is_valid(given):
            return
        found = []
        for error in validator.iter_errors(given):
            where = ".".join(str(part) for part in error.instance_path)
            found.append(f"{where}: {error.message}" if where else error.message)
        problems = "; ".join(found[:_MOST_PROBLEMS])
        raise InvalidArgumentsError(f"arguments of {task} do not fit: {problems}")

    return check


def _retrieve_nothing(uri: str) -> Any:
    """A schema stands for itself: whoever publishes one has nobody fetch anything."""
    raise LookupError(f"it refers to {uri}, and nothing is fetched")


def _refusing(why: str) -> Callable[[Mapping[str, Any]], None]:
    def refuse(arguments: Mapping[str, Any]) -> None:  # noqa: ARG001 - nobody can judge them
        raise InvalidArgumentsError(why)

    return refuse
