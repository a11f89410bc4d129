"""A skill: a handler with its declaration."""

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from pydantic import BaseModel

from skillfleet.arguments import json_arguments
from skillfleet.context import AuthT, RunContext
from skillfleet.contracts import WorkspaceAccess
from skillfleet.skills.schema import ArgumentsSchema, ResultSchema
from skillfleet.skills.signature import read_signature
from skillfleet.skills.spec import (
    SkillSpec,
    check_access,
    check_count,
    check_flag,
    check_skill_name,
    check_text,
    check_timeout,
    names,
    retry_policy,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class SkillOptions:
    """The arguments of `Agent.skill`, as they were written."""

    name: str | None = None
    description: str = ""
    tags: Sequence[str] = ()
    scopes: Sequence[str] = ()
    timeout: float | None = None
    max_retries: int = 0
    retry_on: Sequence[type[Exception]] = ()
    secrets: Sequence[str] = ()
    max_deliveries: int | None = None
    durable: bool = False
    workspace: WorkspaceAccess | None = None


class Skill(Generic[P, R_co]):
    """A handler that `Agent.skill` has decorated; call it like the handler itself.

    A direct call, as in a unit test, runs the handler's code and nothing else. Runtimes use
    `check` and `bind`, call the skill with the bound arguments, and `dump` the result; these
    methods are pure and may be called from any thread.
    """

    __name__: str

    def __init__(
        self,
        handler: Callable[P, Coroutine[Any, Any, R_co]],
        spec: SkillSpec,
        arguments: ArgumentsSchema,
        result: ResultSchema,
    ) -> None:
        functools.update_wrapper(self, handler)
        self.spec = spec
        self.handler = handler
        self._arguments = arguments
        self._result = result

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the handler: first the context, then its arguments."""
        return self.handler(*args, **kwargs)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `InvalidArgumentsError`, naming the fields that do not fit the published schema.

        It checks the JSON form of the arguments.
        """
        self._arguments.check(json_arguments(self.spec.task_name, arguments).plain)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validate JSON arguments and convert them to the handler's types.

        Arguments that were not given are left out, so that the handler's defaults apply;
        unknown ones are refused. Raises `InvalidArgumentsError`, which names the fields.
        """
        return self._arguments.bind(arguments)

    def check_and_bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do `check`, then `bind`, with one encoding of the arguments."""
        json = json_arguments(self.spec.task_name, arguments)
        self._arguments.check(json.plain)
        return self._arguments.bind_encoded(json.encoded)

    def dump(self, value: Any) -> Any:
        """Validate what the handler returned and convert it to plain JSON values.

        Raises `InvalidResultError`, which says what does not fit the return type.
        """
        return self._result.dump(value)

    def __repr__(self) -> str:
        """Return the skill's full name."""
        return f"<Skill {self.spec.task_name}>"


class SkillDecorator(Protocol):
    """The decorator that `@agent.skill(...)` returns."""

    def __call__(
        self, handler: Callable[Concatenate[RunContext[AuthT], P], Coroutine[Any, Any, R]], /
    ) -> Skill[Concatenate[RunContext[AuthT], P], R]:
        """Return the skill that `handler` becomes."""


def make_skill(
    agent: str,
    auth_model: type[BaseModel],
    handler: Callable[P, Coroutine[Any, Any, R]],
    options: SkillOptions,
    local_names: Mapping[str, Any],
) -> Skill[P, R]:
    """Check all declarations of a skill of the agent called `agent`; raises `DeclarationError`."""
    name = getattr(handler, "__name__", "") if options.name is None else options.name
    check_skill_name(agent, name)
    task_name = f"{agent}.{name}"
    label = f"skill {task_name}"
    check_count(label, "max_deliveries", options.max_deliveries, least=1)
    signature = read_signature(handler, task_name, auth_model, local_names)
    arguments = ArgumentsSchema(task_name, signature)
    result = ResultSchema(task_name, signature.returns)
    spec = SkillSpec(
        agent=agent,
        name=name,
        description=check_text(
            label, "description", options.description or _first_line(handler.__doc__)
        ),
        tags=names(label, "tags", options.tags),
        scopes=names(label, "scopes", options.scopes),
        timeout=check_timeout(label, options.timeout),
        retry=retry_policy(label, options.max_retries, options.retry_on),
        secrets=names(label, "secrets", options.secrets),
        max_deliveries=options.max_deliveries,
        durable=check_flag(label, "durable", options.durable),
        workspace=check_access(label, options.workspace),
        input_schema=arguments.json_schema,
        output_schema=result.json_schema,
    )
    return Skill(handler, spec, arguments, result)


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0].strip()
