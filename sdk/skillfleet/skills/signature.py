"""The signature of a skill's handler: reading and checking it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from skillfleet.context import RunContext
from skillfleet.errors import DeclarationError

_RESERVED_PARAMETERS = frozenset({"self", "ctx", "context"})
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class HandlerSignature:
    """A handler's arguments after the context (name to type), defaults and return type."""

    arguments: Mapping[str, Any]
    defaults: Mapping[str, Any]
    returns: Any


def read_signature(
    handler: Callable[..., Any],
    label: str,
    auth_model: type[BaseModel],
    local_names: Mapping[str, Any],
) -> HandlerSignature:
    """Check a handler and read its types.

    `label` names the skill in messages; `local_names` are names that annotations may use
    besides the module's. Raises `DeclarationError`.
    """
    where = f"skill {label} ({_place(handler)})"
    _check_async(handler, where)
    parameters = list(inspect.signature(handler).parameters.values())
    _check_context_first(parameters, where)
    for parameter in parameters[1:]:
        _check_parameter(parameter, where)
    if inspect.signature(handler).return_annotation is inspect.Signature.empty:
        raise DeclarationError(
            f"{where} does not say what it returns: write '-> SomeType', or '-> None' for nothing"
        )
    hints = _resolve(handler, where, local_names)
    _check_context_type(hints.get(parameters[0].name), auth_model, where)
    return HandlerSignature(
        arguments={parameter.name: hints[parameter.name] for parameter in parameters[1:]},
        defaults={p.name: p.default for p in parameters[1:] if p.default is not p.empty},
        returns=hints["return"],
    )


def _place(handler: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(handler), "__code__", None)
    name = getattr(handler, "__module__", "?")
    return f"{name}:{code.co_firstlineno}" if code else str(name)


def _check_async(handler: Callable[..., Any], where: str) -> None:
    if inspect.isasyncgenfunction(handler):
        raise DeclarationError(
            f"{where} yields: emit what it streams with 'await ctx.emit_text_delta(...)' or "
            "'await ctx.emit_event(...)' and return the result"
        )
    if not inspect.iscoroutinefunction(handler):
        raise DeclarationError(f"{where} is not async: write 'async def'")


def _check_context_first(parameters: list[inspect.Parameter], where: str) -> None:
    first = parameters[0] if parameters else None
    if first is None or first.kind not in _POSITIONAL:
        raise DeclarationError(f"{where} needs the context first: write '(ctx: RunContext, ...)'")
    if first.annotation is first.empty:
        raise DeclarationError(
            f"{where} needs the context first, annotated: write '({first.name}: RunContext, ...)'"
        )


def _check_parameter(parameter: inspect.Parameter, where: str) -> None:
    name = parameter.name
    if parameter.kind not in _NAMED:
        raise DeclarationError(
            f"{where}: argument {name!r} is passed by position or is variable: "
            f"arguments travel by name, write '{name}: SomeType'"
        )
    if name in _RESERVED_PARAMETERS or name.startswith("_"):
        raise DeclarationError(
            f"{where}: argument name {name!r} is reserved: choose one without leading '_', "
            f"other than {', '.join(sorted(_RESERVED_PARAMETERS))}"
        )
    if parameter.annotation is parameter.empty:
        raise DeclarationError(f"{where}: argument {name!r} has no type: write '{name}: SomeType'")
    if isinstance(parameter.default, FieldInfo):
        raise DeclarationError(
            f"{where}: argument {name!r} has a Field as default: "
            f"write '{name}: Annotated[SomeType, Field(...)] = default'"
        )


def _resolve(
    handler: Callable[..., Any], where: str, local_names: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        return get_type_hints(handler, localns=dict(local_names), include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise DeclarationError(
            f"{where}: an annotation cannot be resolved ({error}): import what it names at the "
            "top of the module, outside of 'if TYPE_CHECKING'"
        ) from error


def _check_context_type(hint: Any, auth_model: type[BaseModel], where: str) -> None:
    if (get_origin(hint) or hint) is not RunContext:
        raise DeclarationError(
            f"{where}: the first argument is the context: annotate it with RunContext, not {hint!r}"
        )
    for wanted in get_args(hint):
        if inspect.isclass(wanted) and not issubclass(auth_model, wanted):
            raise DeclarationError(
                f"{where} expects {wanted.__name__}, but its agent identifies callers by "
                f"{auth_model.__name__}: write Agent(..., auth_model={wanted.__name__})"
            )
