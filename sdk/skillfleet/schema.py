"""From a handler's types to validation and JSON Schema."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NotRequired

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from skillfleet.errors import DeclarationError, InvalidArgumentsError, InvalidResultError
from skillfleet.signature import HandlerSignature

_LONGEST_PROBLEM = 500


class ArgumentsSchema:
    """Validates a skill's arguments. `label` names the skill in messages."""

    def __init__(self, label: str, signature: HandlerSignature) -> None:
        self._label = label
        for name, hint in signature.arguments.items():
            _describable(hint, f"skill {label}: argument {name!r}")
        self._names = tuple(signature.arguments)
        self._adapter = _arguments_adapter(signature)
        self.json_schema = self._adapter.json_schema()
        for name, default in signature.defaults.items():
            _publish_default(self.json_schema["properties"][name], default)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the handler wants them, validated as JSON is.

        Arguments that were not given are left out, so that the handler's defaults apply.
        Raises `InvalidArgumentsError`, which names the fields but never shows their values.
        """
        try:
            document = orjson.dumps(dict(arguments))
        except (orjson.JSONEncodeError, TypeError, ValueError) as error:
            raise InvalidArgumentsError(
                f"the arguments of {self._label} must be a JSON object: {error}"
            ) from None
        try:
            bound: dict[str, Any] = self._adapter.validate_json(document)
        except ValidationError as error:
            raise InvalidArgumentsError(
                f"invalid arguments for {self._label}: {self._explain(error)}"
            ) from None
        return bound

    def _explain(self, error: ValidationError) -> str:
        problems = _problems(error)
        if any(item["type"] == "extra_forbidden" for item in error.errors()):
            problems += f" (its arguments: {', '.join(self._names) or 'none'})"
        return problems


class ResultSchema:
    """Validates what a skill returns. `label` names the skill in messages."""

    def __init__(self, label: str, returns: Any) -> None:
        self._label = label
        self._adapter = _describable(returns, f"skill {label}: the return type")
        self.json_schema = _json_schema(
            lambda: self._adapter.json_schema(mode="serialization"),
            f"skill {label}: the return type",
            returns,
        )

    def dump(self, value: Any) -> Any:
        """`value` as plain JSON values (NaN and infinity become None, as JSON has none).

        Raises `InvalidResultError`, which says what is wrong.
        """
        try:
            checked = self._adapter.validate_python(value)
            plain = self._adapter.dump_python(checked, mode="json", warnings="error")
            return orjson.loads(orjson.dumps(plain))
        except ValidationError as error:
            problem = _problems(error)
        except Exception as error:  # noqa: BLE001 - the result's own code runs here, too
            problem = " ".join(str(error).split())[:_LONGEST_PROBLEM]
        raise InvalidResultError(
            f"{self._label} returned {type(value).__name__}, "
            f"which does not fit its return type: {problem}"
        )


def _arguments_adapter(signature: HandlerSignature) -> TypeAdapter[Any]:
    fields = {
        name: NotRequired[hint] if name in signature.defaults else hint
        for name, hint in signature.arguments.items()
    }
    arguments = TypedDict("Arguments", fields)  # type: ignore[misc]
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return TypeAdapter(arguments)


def _publish_default(schema: dict[str, Any], default: Any) -> None:
    # A default without a JSON form is still used by the handler, only not published.
    with contextlib.suppress(PydanticSerializationError):
        schema["default"] = to_jsonable_python(default)


def _describable(hint: Any, what: str) -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = _json_schema(lambda: TypeAdapter(hint), what, hint)
    _json_schema(adapter.json_schema, what, hint)
    return adapter


def _json_schema(build: Callable[[], Any], what: str, hint: Any) -> Any:
    try:
        return build()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        reason = str(error).splitlines()[0]
        raise DeclarationError(
            f"{what} cannot be described as JSON ({reason}): use plain types, a dataclass or a "
            f"pydantic model instead of {hint!r}"
        ) from error


def _problems(error: ValidationError) -> str:
    items = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
        for item in items
    )
