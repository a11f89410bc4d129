"""An agent: a named set of skills."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from skillfleet.auth import NoAuth
from skillfleet.context import AuthT, RunContext
from skillfleet.contracts import AgentCard, WorkspaceAccess
from skillfleet.errors import DeclarationError
from skillfleet.skills.skill import Skill, SkillDecorator, SkillOptions, make_skill
from skillfleet.skills.spec import (
    BUILT_IN_AGENT,
    check_agent_name,
    check_queue_name,
    check_text,
    names,
)

P = ParamSpec("P")
R = TypeVar("R")


class Agent:
    """A named set of skills.

        librarian = Agent("librarian", description="Knows what is in a folder")

        @librarian.skill(timeout=60)
        async def survey(ctx: RunContext, folder: str, top: int = 10) -> Survey: ...

    `auth_model` is the pydantic model that callers are identified by (`ctx.auth`). `queue` is
    the queue that carries the agent's runs; None leaves it to the fleet. `compatible_versions`
    lists earlier versions whose runs this one may continue: their recorded steps fit its code.
    There is no global registry: a worker is given the agents to serve. Raises `DeclarationError`.
    """

    _reserved: ClassVar[frozenset[str]] = frozenset({"celery", BUILT_IN_AGENT})

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        version: str = "0.1.0",
        tags: Sequence[str] = (),
        auth_model: type[BaseModel] = NoAuth,
        queue: str | None = None,
        compatible_versions: Sequence[str] = (),
    ) -> None:
        check_agent_name(name, self._reserved)
        check_queue_name(name, queue)
        if not inspect.isclass(auth_model) or not issubclass(auth_model, BaseModel):
            raise DeclarationError(
                f"agent {name!r}: auth_model must be a pydantic model class, got {auth_model!r}"
            )
        if not isinstance(version, str) or not version:
            raise DeclarationError(f"agent {name!r}: version must be a string such as '1.2.0'")
        self.name = name
        self.description = check_text(f"agent {name}", "description", description)
        self.version = check_text(f"agent {name}", "version", version)
        self.tags = names(f"agent {name}", "tags", tags)
        self.auth_model = auth_model
        self.queue = queue
        self.compatible_versions = names(
            f"agent {name}", "compatible_versions", compatible_versions
        )
        self._skills: dict[str, Skill[..., Any]] = {}

    @property
    def skills(self) -> Mapping[str, Skill[..., Any]]:
        """The agent's skills by name, in the order of their declaration; read-only."""
        return MappingProxyType(self._skills)

    @overload
    def skill(
        self, handler: Callable[Concatenate[RunContext[AuthT], P], Coroutine[Any, Any, R]], /
    ) -> Skill[Concatenate[RunContext[AuthT], P], R]: ...

    @overload
    def skill(
        self,
        /,
        *,
        name: str | None = None,
        description: str = "",
        tags: Sequence[str] = (),
        scopes: Sequence[str] = (),
        timeout: float | None = None,
        max_retries: int = 0,
        retry_on: Sequence[type[Exception]] = (),
        secrets: Sequence[str] = (),
        max_deliveries: int | None = None,
        durable: bool = False,
        workspace: WorkspaceAccess | None = None,
    ) -> SkillDecorator: ...

    def skill(self, handler: Any = None, /, **options: Any) -> Any:
        """Declare a skill of this agent: `@agent.skill` or `@agent.skill(...)`.

        The handler is an `async def` whose first argument is the `RunContext`; all others and
        the result carry types that can be written as JSON.

        `name` defaults to the handler's, `description` to its docstring's first line.
        `scopes` are what a caller needs. `timeout` ends a run after that many seconds,
        retries included. `max_retries` allows further attempts after errors that are
        retryable by themselves or an instance of a type in `retry_on`. `secrets` names what
        `ctx.secret` may read. `max_deliveries` bounds how often a run is handed to a worker.
        A run of a `durable` skill may be parked while it waits: it gives up its worker, and its
        handler starts again later, with the results of its steps; side effects belong in steps.
        `workspace` lets the skill negotiate access to files with `ctx.workspace`.

        Raises `DeclarationError`, whose message says what to write.
        """
        if handler is not None:
            return self._add(handler, SkillOptions(), _names_at_caller())
        chosen = self._options(options)

        def decorate(handler: Callable[..., Any]) -> Skill[..., Any]:
            return self._add(handler, chosen, _names_at_caller())

        return decorate

    def _options(self, options: Mapping[str, Any]) -> SkillOptions:
        try:
            return SkillOptions(**options)
        except TypeError as error:
            known = ", ".join(field.name for field in dataclasses.fields(SkillOptions))
            raise DeclarationError(
                f"agent {self.name!r}: skill() accepts {known}; got {', '.join(options)}"
            ) from error

    def _add(
        self, handler: Callable[..., Any], options: SkillOptions, local_names: Mapping[str, Any]
    ) -> Skill[..., Any]:
        if not callable(handler):
            raise DeclarationError(
                f"agent {self.name!r}: skill() takes options by name only: "
                "write @agent.skill(name='...')"
            )
        skill = make_skill(self.name, self.auth_model, handler, options, local_names)
        if skill.spec.name in self._skills:
            raise DeclarationError(
                f"agent {self.name!r} has a skill {skill.spec.name!r} already: "
                "write @agent.skill(name='...') with another name"
            )
        self._skills[skill.spec.name] = skill
        return skill

    def card(self, queue: str) -> AgentCard:
        """Return the card that the agent's workers publish; `queue` carries its runs."""
        return AgentCard(
            name=self.name,
            description=self.description,
            version=self.version,
            compatible_versions=self.compatible_versions,
            tags=self.tags,
            queue=queue,
            skills=tuple(skill.spec.card() for skill in self._skills.values()),
        )

    def __repr__(self) -> str:
        """Return the agent's name."""
        return f"<Agent {self.name}>"


class BuiltInAgent(Agent):
    """The fleet's own agent, which may use its reserved name."""

    _reserved = frozenset({"celery"})


def _names_at_caller() -> Mapping[str, Any]:
    """Return the names visible where the decorator is used: types may be declared there."""
    return sys._getframe(2).f_locals  # noqa: SLF001 - the one way to a caller's locals
