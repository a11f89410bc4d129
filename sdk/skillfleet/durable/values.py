"""The types of recorded values: a value comes back from the journal in the type it had."""

import base64
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property
from types import FunctionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from pydantic import (
    ConfigDict,
    PydanticUserError,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from skillfleet.errors import DeclarationError, InvalidResultError
from skillfleet.failures import error_text
from skillfleet.jsonable import NotJsonError, to_json
from skillfleet.texts import shortened_text

TypeT = TypeVar("TypeT")

_LOSSLESS: Final = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
)
_MOST_PROBLEM_CHARS: Final = 500
_AWAITABLES: Final = (Awaitable, Coroutine)


class ValueType:
    """A type whose values are recorded. Any thread."""

    def __init__(self, hint: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(hint, config=_LOSSLESS)
        except PydanticUserError:
            # Models and dataclasses have a configuration of their own.
            self._adapter = TypeAdapter(hint)

    @cached_property
    def secret(self) -> bool:
        """True if a part of the values is a secret (`pydantic.SecretStr`), whose JSON is masked."""
        try:
            return is_write_only(self._adapter.json_schema(mode="serialization"))
        except PydanticUserError:
            # A type without a schema.
            return False

    def encode(self, value: Any) -> bytes:
        """Return the JSON of a value; raises `InvalidResultError`, which says what is wrong."""
        try:
            checked = self._adapter.validate_python(value)
            return self._adapter.dump_json(
                checked, by_alias=False, round_trip=True, warnings="error"
            )
        except Exception as error:
            raise InvalidResultError(_problem(value, error)) from error

    def decode(self, encoded: bytes) -> Any:
        """Return the value of a JSON that `encode` returned; raises `InvalidResultError`."""
        try:
            return self._adapter.validate_json(encoded, by_alias=False, by_name=True)
        except Exception as error:
            raise InvalidResultError(
                f"its value cannot be read back from its JSON: {explained(error)}"
            ) from error


class AnswerType(ValueType):
    """A type whose values others write, by its published schema."""

    def __init__(self, hint: Any) -> None:
        super().__init__(hint)
        self.schema: dict[str, Any] = to_json(self._adapter.json_schema()).plain
        """The JSON Schema (2020-12) of the values."""

    @cached_property
    def secret(self) -> bool:
        """True if a part of the values is a secret, as the published schema says."""
        return is_write_only(self.schema)

    def decode(self, encoded: bytes) -> Any:
        """Return the value of a JSON; raises `InvalidResultError`, which names the fields.

        If it is secret, the error says nothing about it.
        """
        try:
            return self._adapter.validate_json(encoded)
        except Exception as error:
            if not self.secret:
                raise InvalidResultError(explained(error)) from error
        # Outside of the handler: the original error, which shows its input, is not its context.
        raise InvalidResultError("the answer does not fit; it is secret, so no details are shown")

    def secrets_in(self, value: Any) -> tuple[str, ...]:
        """Return the secret texts in a value: of pydantic's secrets, else all of its strings."""
        plain = self._adapter.dump_python(value, warnings=False)
        return tuple(_secret_texts(plain)) or tuple(_strings(plain))


class PlainType(ValueType):
    """The type of values of plain JSON, for functions that declare no type."""

    def __init__(self) -> None:
        super().__init__(Any)

    def encode(self, value: Any) -> bytes:
        """Return the JSON of a value; raises `InvalidResultError` if JSON would change it."""
        try:
            json = to_json(value)
        except NotJsonError as error:
            raise InvalidResultError(_problem(value, error)) from error
        if json.plain != value:
            kind = type(value).__name__
            raise InvalidResultError(
                f"it returned {kind}, which JSON does not give back: annotate the function's"
                f" return type, or pass returns={kind}"
            )
        return json.encoded


_PLAIN: Final = PlainType()


def type_of_result(name: str, function: Callable[..., Any], returns: Any) -> ValueType:
    """Return the type of a step's result: `returns`, else the function's annotation.

    Raises `DeclarationError` for a type that pydantic cannot serialise.
    """
    hint = _annotation(name, function) if returns is None else returns
    if hint in (Any, inspect.Signature.empty):
        return _PLAIN
    kind = _described(f"step {name!r}: the type of its result", hint, ValueType)
    if kind.secret:
        raise DeclarationError(
            f"step {name!r}: its result holds a secret, and results are stored: return where to"
            " find it, or declare secrets=(...)"
        )
    return kind


def answer_type(hint: Any) -> AnswerType:
    """Return the type of the answers to a question; raises `DeclarationError`."""
    return _described("the schema of a question", hint, AnswerType)


def _described(what: str, hint: Any, make: Callable[[Any], TypeT]) -> TypeT:
    try:
        return _made(make, hint)
    except Exception as error:
        reason = error_text(error).partition("\n")[0]
        raise DeclarationError(
            f"{what} cannot be written as JSON ({reason}): use plain types, a dataclass or a"
            " pydantic model"
        ) from error


def _made(make: Callable[[Any], TypeT], hint: Any) -> TypeT:
    try:
        hash(hint)
    except TypeError:
        return make(hint)
    made: TypeT = _cached(make, hint)
    return made


@functools.lru_cache(maxsize=256)
def _cached(make: Callable[[Any], Any], hint: Any) -> Any:
    return make(hint)


def _secret_texts(value: Any) -> Iterator[str]:
    """Yield the content of pydantic's secrets in a value without models and dataclasses."""
    for item in _items(value):
        if not isinstance(item, Secret | SecretStr | SecretBytes):
            continue
        content = item.get_secret_value()
        if isinstance(content, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                yield content.decode()
            yield base64.b64encode(content).decode()
            yield content.hex()
        else:
            yield str(content)


def _strings(value: Any) -> Iterator[str]:
    return (item for item in _items(value) if isinstance(item, str))


def _items(value: Any) -> Iterator[Any]:
    """Yield all that a value of dicts, lists, tuples and sets contains, and the value itself."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, Mapping):
            waiting += (*item, *item.values())
        elif isinstance(item, list | tuple | AbstractSet):
            waiting += item


def is_write_only(schema: Any) -> bool:
    """Return whether a JSON Schema has a part that is a secret."""
    if isinstance(schema, dict):
        return schema.get("writeOnly") is True or any(map(is_write_only, schema.values()))
    return isinstance(schema, list) and any(map(is_write_only, schema))


def _annotation(name: str, function: Callable[..., Any]) -> Any:
    """Return the annotated return type; `Signature.empty` without one."""
    target = _annotated(function)
    if inspect.isclass(target):
        return target
    try:
        hint = getattr(target, "__annotations__", {}).get("return", inspect.Signature.empty)
        if isinstance(hint, str):
            hint = get_type_hints(target, include_extras=True)["return"]
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise DeclarationError(
            f"step {name!r}: the return annotation of its function cannot be resolved ({error}):"
            " pass returns="
        ) from error
    if hint is None:
        return type(None)
    if get_origin(hint) in _AWAITABLES and get_args(hint):
        return get_args(hint)[-1]
    return hint


def _annotated(function: Callable[..., Any]) -> Any:
    """Return the function whose annotations describe a call of `function`."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
        return function
    function = inspect.unwrap(function)
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return getattr(function, "__call__", function)  # noqa: B004 - its annotations are read


def _problem(value: Any, error: Exception) -> str:
    return f"it returned {type(value).__name__}, which cannot be recorded: {explained(error)}"


def explained(error: Exception) -> str:
    """Return why a value is invalid, naming its fields but not their values."""
    if isinstance(error, ValidationError):
        items = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in items
        )
    else:
        text = " ".join(error_text(error).split())
    return shortened_text(text, _MOST_PROBLEM_CHARS)
