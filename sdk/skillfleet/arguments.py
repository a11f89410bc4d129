"""The check of JSON arguments against a skill's published schema, and of answers against a wait's.

Producers apply it at `enqueue` and `answer`, workers before the first attempt, so a caller gets the
same message wherever the mistake is found.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from skillfleet.contracts import MOST_SECONDS
from skillfleet.errors import ArgumentsTooLargeError, InvalidArgumentsError
from skillfleet.jsonable import Json, NotJsonError, to_json
from skillfleet.texts import shortened_text

_MOST_PROBLEMS = 5
_MOST_PROBLEM_CHARS = 1000
_TYPED = {"__type__", "__value__"}


def json_arguments(task: str, arguments: Mapping[str, Any], limit: int | None = None) -> Json:
    """Return the arguments as a JSON object of at most `limit` bytes.

    Raises InvalidArgumentsError, naming the argument that JSON cannot carry, and
    ArgumentsTooLargeError.
    """
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        raise InvalidArgumentsError(f"arguments of {task} must be an object by name, not {kind}")
    try:
        json = to_json(arguments)
    except NotJsonError as error:
        what = f"argument {error.where!r} of {task} is" if error.where else f"arguments of {task}:"
        raise InvalidArgumentsError(f"{what} not JSON: {error}") from None
    if limit is not None and len(json.encoded) > limit:
        raise ArgumentsTooLargeError(
            f"arguments of {task} are {len(json.encoded)} bytes, the limit is {limit}"
            " (SKILLFLEET_MAX_ARGUMENTS_BYTES): store large data as an artifact"
            " or your own storage and pass its name"
        )
    if b'"__type__"' in json.encoded and any(value.keys() == _TYPED for value in _objects(json)):
        raise InvalidArgumentsError(
            f"arguments of {task} hold an object with the keys __type__ and __value__ only, which"
            " Celery takes for a typed value: rename one of them"
        )
    return json


def _objects(json: Json) -> Iterator[dict[str, Any]]:
    waiting = [json.plain]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def check_seconds(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raise InvalidArgumentsError unless `value` is a time above 0 of at most ten years."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidArgumentsError(f"{name} must be a number of seconds, not {value!r}")
    if not (value > 0 or (or_zero and value == 0)):
        least = "at least" if or_zero else "more than"
        raise InvalidArgumentsError(f"{name} must be {least} 0 seconds, not {value}")
    if value > MOST_SECONDS:
        raise InvalidArgumentsError(f"{name} must be at most ten years, not {value} seconds")


def arguments_check(task: str, schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """Return a check that raises InvalidArgumentsError, naming the fields that do not fit.

    Arguments are plain JSON values, as `json_arguments` returns. `schema` is the skill's input
    schema (JSON Schema 2020-12); an unusable schema refuses all arguments. `task` names the
    skill in the message.
    """
    try:
        return schema_check(f"arguments of {task} do not fit", to_json(schema).encoded)
    except ValueError as error:
        return _refusing(f"the schema that {task} publishes cannot be used: {error}")


def check_answer(value: Any, schema: Mapping[str, Any] | None, *, secret: bool = False) -> None:
    """Raise InvalidArgumentsError, naming the fields, for an answer that does not fit its wait.

    `value` is plain JSON, `schema` that of the wait; a wait without one takes any answer. The
    error shows no part of a `secret` answer.
    """
    if schema is None:
        return
    try:
        check = schema_check("the answer does not fit", to_json(schema).encoded, masked=secret)
    except ValueError as error:
        raise InvalidArgumentsError(f"the schema of the wait cannot be used: {error}") from None
    check(value)


@lru_cache(maxsize=1024)
def schema_check(refusal: str, schema: bytes, *, masked: bool = False) -> Callable[[Any], None]:
    """Return the check for a schema as JSON; raises ValueError for an unusable schema.

    The error of the check begins with `refusal`, then names the fields that do not fit; if it is
    `masked`, only the schema's rules that they break.
    """
    # The import costs 3 MiB: only processes that check a schema pay for it.
    import jsonschema_rs  # noqa: PLC0415

    validator = jsonschema_rs.Draft202012Validator(
        orjson.loads(schema), retriever=_retrieve_nothing
    )

    def check(arguments: Any) -> None:
        if validator.is_valid(arguments):
            return
        found = []
        for error in validator.iter_errors(arguments):
            if masked:
                # Names of fields may be part of the value, too.
                found.append("/".join(str(part) for part in error.schema_path))
                continue
            where = ".".join(str(part) for part in error.instance_path)
            message = shortened_text(error.message, _MOST_PROBLEM_CHARS)
            found.append(f"{where}: {message}" if where else message)
        problems = "; ".join(found[:_MOST_PROBLEMS])
        raise InvalidArgumentsError(f"{refusal}: {problems}")

    return check


def _retrieve_nothing(uri: str) -> Any:
    """Refuse remote `$ref`s: schemas must be self-contained."""
    raise LookupError(f"it refers to {uri}, and nothing is fetched")


def _refusing(why: str) -> Callable[[Mapping[str, Any]], None]:
    def refuse(arguments: Mapping[str, Any]) -> None:  # noqa: ARG001 - they cannot be checked
        raise InvalidArgumentsError(why)

    return refuse
