"""Agents that find and call each other in one process, without a fleet."""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from skillfleet.agent import Agent
from skillfleet.arguments import json_arguments
from skillfleet.auth import NoAuth, narrowed_auth
from skillfleet.contracts import Budget, Limits
from skillfleet.errors import (
    CapabilityUnavailableError,
    DeclarationError,
    IdempotencyConflictError,
    LimitExceededError,
    RunFailed,
    UnauthorizedError,
    UnknownAgentError,
    UnknownSkillError,
)
from skillfleet.failures import error_code, error_text
from skillfleet.ports.a2a import A2AClient, Caller, CallResult
from skillfleet.ports.discovery import DiscoveredAgent, DiscoveryClient, card_matches
from skillfleet.skills.skill import Skill
from skillfleet.testing.budget_tracker import Purse
from skillfleet.testing.local_context import LocalRunContext
from skillfleet.testing.runner import earlier, run_to_end

_QUEUE = "local"
_Call = tuple[str, dict[str, Any]]  # a task name and its arguments


@dataclass(frozen=True)
class _Place:
    """Where a run stands in its tree: the first caller, and the calls from there to it."""

    root: Caller
    above: tuple[_Call, ...] = ()


@dataclass
class _Made:
    """The calls that one run made."""

    finished: dict[str, tuple[_Call, CallResult]] = field(default_factory=dict)
    locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    attempt: int = 0
    same: Counter[str] = field(default_factory=Counter)

    def position(self, call: _Call, attempt: int) -> str:
        """The n-th call of an attempt with these arguments is the same call in the next."""
        if attempt != self.attempt:
            self.attempt, self.same = attempt, Counter()
        told = f"{call[0]} {orjson.dumps(call[1], option=orjson.OPT_SORT_KEYS).decode()}"
        self.same[told] += 1
        return f"position:{self.same[told]}:{told}"


@dataclass
class _Shared:
    """What the clients of one tree of calls have in common."""

    agents: Mapping[str, Agent]
    secrets: Mapping[str, str]
    max_depth: int
    max_runs: int
    grace: float
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    runs: WeakKeyDictionary[Caller, int] = field(default_factory=WeakKeyDictionary)
    """How many runs the tree of each first caller holds, itself included."""
    made: WeakKeyDictionary[Caller, _Made] = field(default_factory=WeakKeyDictionary)


class InProcessA2AClient(A2AClient):
    """Runs the skills of `agents` in this process, under the fleet's rules.

    Each call gets a `LocalRunContext` of its own: with the caller's identity and no more than
    its scopes, its deadline or an earlier one, its cancellation, and those of `secrets` that
    the called skill declares. Arguments and results are validated and travel as JSON; failed
    attempts are retried as the skill says, after its backoff. Runs nest at most `max_depth`
    deep, a tree holds at most `max_runs` runs, and no call may come back to itself with the
    same arguments. Budgets are those of the callers' contexts, narrowed by each call's own.
    `grace` is the time in seconds that a cancelled skill has to end by itself. Workspace grants
    cannot be handed over (`CapabilityUnavailableError`).
    """

    def __init__(
        self,
        agents: Iterable[Agent],
        *,
        secrets: Mapping[str, str] | None = None,
        max_depth: int = 16,
        max_runs: int = 1000,
        grace: float = 1.0,
    ) -> None:
        known = _by_name(agents)
        self._shared = _Shared(known, dict(secrets or {}), max_depth, max_runs, grace)

    def for_caller(self, caller: Caller) -> A2AClient:
        """A client for the calls of `caller`'s run."""
        return _CallerClient(self._shared, caller, _Place(caller))

    async def call(
        self,
        target: str,
        skill: str,
        *,
        args: Mapping[str, Any] | None = None,
        grant: str | None = None,
        timeout: float | None = None,
        key: str | None = None,
        budget: Budget | None = None,
    ) -> CallResult:
        """Run a skill for nobody in particular (`NoAuth`); see `A2AClient.call`."""
        client = self.for_caller(LocalRunContext(auth=NoAuth(), task_id="local"))
        return await client.call(
            target, skill, args=args, grant=grant, timeout=timeout, key=key, budget=budget
        )


class _CallerClient(A2AClient):
    """Makes the calls of one run."""

    def __init__(self, shared: _Shared, caller: Caller, place: _Place) -> None:
        self._shared = shared
        self._caller = caller
        self._place = place

    def for_caller(self, caller: Caller) -> A2AClient:
        return _CallerClient(self._shared, caller, self._place)

    async def call(
        self,
        target: str,
        skill: str,
        *,
        args: Mapping[str, Any] | None = None,
        grant: str | None = None,
        timeout: float | None = None,
        key: str | None = None,
        budget: Budget | None = None,
    ) -> CallResult:
        if grant is not None:
            raise CapabilityUnavailableError("calls in process cannot hand over workspace grants")
        agent, found = self._find(target, skill)
        call = (found.spec.task_name, _arguments(found, args))
        made = self._shared.made.setdefault(self._caller, _Made())
        name = f"key:{key}" if key is not None else made.position(call, self._attempt)
        async with made.locks[name]:
            if name not in made.finished:
                result = await self._run(agent, found, call, timeout, budget)
                made.finished[name] = (call, result)
        former, result = made.finished[name]
        if former != call:
            raise IdempotencyConflictError(
                f"key {key!r} was used before in this run for another skill or other arguments"
            )
        return result

    @property
    def _attempt(self) -> int:
        return self._caller.attempt if isinstance(self._caller, LocalRunContext) else 1

    def _find(self, target: str, skill: str) -> tuple[Agent, Skill[..., Any]]:
        # The first caller stands for a run, too.
        if len(self._place.above) + 1 >= self._shared.max_depth:
            limit = self._shared.max_depth
            raise LimitExceededError(
                f"runs may be nested {limit} deep: {target}.{skill} would be deeper"
            )
        agent = _known(self._shared.agents, target)
        if skill not in agent.skills:
            raise UnknownSkillError(
                f"agent {target!r} has no skill {skill!r}; it has: {_listed(agent.skills)}"
            )
        return agent, agent.skills[skill]

    async def _run(
        self,
        agent: Agent,
        skill: Skill[..., Any],
        call: _Call,
        timeout: float | None,
        budget: Budget | None,
    ) -> CallResult:
        parent = self._caller if isinstance(self._caller, LocalRunContext) else None
        self._join_tree(call)
        above = parent.purse if parent is not None else Purse()
        above.take_call()
        child = self._child(agent, skill, call)
        child.purse = Purse(budget, above)
        child.deadline = earlier(self._caller.deadline, timeout)
        if parent is not None:
            parent.adopt(child)
        try:
            result = await run_to_end(skill, child, call[1], grace=self._shared.grace)
        finally:
            child.cancel("the run has ended")
            if parent is not None:
                parent.release(child)
        return CallResult(result, tuple(child.events), tuple(child.artifact_refs.values()))

    def _join_tree(self, call: _Call) -> None:
        """Make room for one more run; raises LimitExceededError where there can be none."""
        if call in self._place.above:
            raise LimitExceededError(
                f"{call[0]} is called with the same arguments by a run above: a cycle"
            )
        held = self._shared.runs.get(self._place.root, 1)
        if held >= self._shared.max_runs:
            raise LimitExceededError(f"the tree of runs already holds {held} runs")
        self._shared.runs[self._place.root] = held + 1

    def _child(self, agent: Agent, skill: Skill[..., Any], call: _Call) -> LocalRunContext[Any]:
        run_id = f"{self._caller.task_id}.{next(self._shared.numbers)}"
        secrets = self._shared.secrets
        try:
            auth = narrowed_auth(agent.auth_model, self._caller.auth)
        except UnauthorizedError as error:
            raise RunFailed(error_text(error), code=error_code(error), run_id=run_id) from error
        place = replace(self._place, above=(*self._place.above, call))
        return LocalRunContext(
            auth=auth,
            task_id=run_id,
            secrets={name: secrets[name] for name in skill.spec.secrets if name in secrets},
            a2a=_CallerClient(self._shared, self._caller, place),
            discover=LocalDiscovery(self._shared.agents.values()),
        )


class LocalDiscovery(DiscoveryClient):
    """Finds the given agents; all of them are always alive."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents = _by_name(agents)

    async def find_agents(
        self,
        *,
        tags: Sequence[str] = (),
        capability: str | None = None,
        skill: str | None = None,
        limit: int = 10,
    ) -> list[DiscoveredAgent]:
        """At most `limit` agents that fit every given criterion, ordered by name."""
        found = [
            agent
            for agent in map(_discovered, self._agents.values())
            if card_matches(agent.card, tags=tags, capability=capability, skill=skill)
        ]
        return sorted(found, key=lambda agent: agent.name)[:limit]

    async def get_agent(self, name: str) -> DiscoveredAgent:
        """The agent called `name`; raises `UnknownAgentError`, which lists the known ones."""
        return _discovered(_known(self._agents, name))


def _by_name(agents: Iterable[Agent]) -> dict[str, Agent]:
    known: dict[str, Agent] = {}
    for agent in agents:
        if known.setdefault(agent.name, agent) is not agent:
            raise DeclarationError(f"there are two agents called {agent.name!r}")
    return known


def _known(agents: Mapping[str, Agent], name: str) -> Agent:
    if name not in agents:
        raise UnknownAgentError(f"there is no agent {name!r}; known are: {_listed(agents)}")
    return agents[name]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _discovered(agent: Agent) -> DiscoveredAgent:
    return DiscoveredAgent(agent.name, agent.card(agent.queue or _QUEUE))


def _arguments(skill: Skill[..., Any], args: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments as they would arrive, checked."""
    name, limits = skill.spec.task_name, Limits()
    arguments: dict[str, Any] = json_arguments(
        name, {} if args is None else args, limits.arguments_bytes
    ).plain
    skill.check(arguments)
    return arguments
