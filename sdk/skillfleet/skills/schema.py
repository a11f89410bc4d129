"""The validation and JSON Schema of a handler's types."""

import contextlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, NotRequired

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from skillfleet.arguments import arguments_check, json_arguments, schema_check
from skillfleet.errors import DeclarationError, InvalidArgumentsError, InvalidResultError
from skillfleet.failures import error_text
from skillfleet.jsonable import NotJsonError, to_json
from skillfleet.skills.signature import HandlerSignature
from skillfleet.texts import shortened_text

_LONGEST_PROBLEM = 500


class ArgumentsSchema:
    """The validation of a skill's arguments. `label` names the skill in messages."""

    def __init__(self, label: str, signature: HandlerSignature) -> None:
        self._label = label
        for name, hint in signature.arguments.items():
            _Described(partial(TypeAdapter, hint), f"skill {label}: argument {name!r}")
        self._names = tuple(signature.arguments)
        described = _Described(partial(_arguments_adapter, signature), f"skill {label}")
        self._adapter = described.adapter
        self.json_schema = described.schema
        for name, default in signature.defaults.items():
            _publish_default(self.json_schema["properties"][name], default)
        # The library that checks arguments is not loaded in idle workers. Of the schemas that
        # pydantic generates, only patterns may be unsupported by it: check those at declaration.
        if b'"pattern' in (schema := orjson.dumps(self.json_schema)):
            try:
                schema_check(label, schema)
            except ValueError as error:
                raise DeclarationError(
                    f"skill {label}: its arguments cannot be checked by their schema: {error}"
                ) from error

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `InvalidArgumentsError` for plain JSON values that do not fit the schema."""
        self._check(arguments)

    @cached_property
    def _check(self) -> Callable[[Mapping[str, Any]], None]:
        return arguments_check(self._label, self.json_schema)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments in the handler's types, validated as JSON.

        Arguments that were not given are left out, so that the handler's defaults apply.
        Raises `InvalidArgumentsError`, which names the fields but never shows their values.
        """
        return self.bind_encoded(json_arguments(self._label, arguments).encoded)

    def bind_encoded(self, document: bytes) -> dict[str, Any]:
        """Do what `bind` does, for arguments that are encoded as JSON."""
        try:
            bound: dict[str, Any] = self._adapter.validate_json(document)
        except ValidationError as error:
            raise InvalidArgumentsError(
                f"invalid arguments for {self._label}: {self._explain(error)}"
            ) from None
        except Exception as error:
            # The skill's own validator raised it.
            problem = f"{type(error).__name__}: {error_text(error)}"
            raise InvalidArgumentsError(
                f"the arguments of {self._label} cannot be read: {problem}"
            ) from error
        return bound

    def _explain(self, error: ValidationError) -> str:
        problems = _problems(error)
        if any(item["type"] == "extra_forbidden" for item in error.errors()):
            problems += f" (its arguments: {', '.join(self._names) or 'none'})"
        return problems


class ResultSchema:
    """The validation of a skill's result. `label` names the skill in messages."""

    def __init__(self, label: str, returns: Any) -> None:
        self._label = label
        what = f"skill {label}: the return type"
        described = _Described(partial(TypeAdapter, returns), what, "serialization")
        self._adapter = described.adapter
        self.json_schema = described.schema

    def dump(self, value: Any) -> Any:
        """Return `value` as plain JSON values (NaN and infinity become None, as JSON has none).

        Fields have the names of the published schema, which are their aliases.
        Raises `InvalidResultError`, which says what is wrong.
        """
        try:
            checked = self._adapter.validate_python(value)
            plain = self._adapter.dump_python(checked, mode="json", by_alias=True, warnings="error")
            return orjson.loads(orjson.dumps(plain))
        except ValidationError as error:
            problem = _problems(error)
        except Exception as error:  # noqa: BLE001 - the result's own code runs here, too
            problem = shortened_text(" ".join(error_text(error).split()), _LONGEST_PROBLEM)
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


class _Described:
    """A type that pydantic validates, and its published schema as JSON data."""

    def __init__(
        self, build: Callable[[], TypeAdapter[Any]], what: str, mode: JsonSchemaMode = "validation"
    ) -> None:
        try:
            self.adapter = build()
            schema = self.adapter.json_schema(mode=mode, schema_generator=_SchemaOfJson)
        except Exception as error:
            reason = error_text(error).partition("\n")[0]
            raise DeclarationError(
                f"{what} cannot be described as JSON ({reason}): use plain types, a dataclass or"
                " a pydantic model instead"
            ) from error
        try:
            self.schema: dict[str, Any] = to_json(schema).plain
        except NotJsonError as error:
            raise DeclarationError(
                f"{what} cannot be described as JSON: {error.where} of its schema: {error.why}:"
                " write bounds within 64 bits, and strings, numbers, lists and dicts otherwise"
            ) from error


class _SchemaOfJson(GenerateJsonSchema):
    """The schema generator: publishes only defaults that have a JSON form; all of them apply."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def encode_default(self, dft: Any) -> Any:
        try:
            return to_json(super().encode_default(dft)).plain
        except NotJsonError as error:
            raise PydanticSerializationError(str(error)) from error


def _publish_default(schema: dict[str, Any], default: Any) -> None:
    # As above: a default without a JSON form is not published.
    with contextlib.suppress(PydanticSerializationError, ValueError):
        schema["default"] = to_json(to_jsonable_python(default, inf_nan_mode="constants")).plain


def _problems(error: ValidationError) -> str:
    items = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
        for item in items
    )
