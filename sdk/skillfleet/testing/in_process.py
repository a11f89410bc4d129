"""In-process calls: agents that find and call each other without a fleet."""

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
from skillfleet.contracts import RESERVED_KINDS, SUPERSEDED_KIND, Limits
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
from skillfleet.ports.a2a import NO_OPTIONS, A2AClient, A2AProvider, CallOptions, CallResult
from skillfleet.ports.discovery import DiscoveredAgent, DiscoveryClient, card_matches
from skillfleet.ports.scope import RunScope
from skillfleet.skills.skill import Skill
from skillfleet.testing.budget_tracker import BudgetTracker
from skillfleet.testing.local_context import LocalRunContext, LocalRunScope
from skillfleet.testing.runner import earlier, run_to_end

_QUEUE = "local"
_OF_THE_FLEET = RESERVED_KINDS - {SUPERSEDED_KIND}
_Call = tuple[str, dict[str, Any]]  # a task name and its arguments
_Context = LocalRunContext[Any]


@dataclass(frozen=True)
class _TreePosition:
    """The position of a run in its tree: the first caller, and the calls from there to the run."""

    root: _Context
    calls: tuple[_Call, ...] = ()


@dataclass
class _CallHistory:
    """The calls that one run made."""

    finished: dict[str, tuple[_Call, CallResult]] = field(default_factory=dict)
    locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    attempt: int = 0
    same: Counter[str] = field(default_factory=Counter)

    def position(self, call: _Call, attempt: int, count: int | None) -> str:
        """Return the key of a call without one: n-th call of the attempt with these arguments."""
        if attempt != self.attempt:
            self.attempt, self.same = attempt, Counter()
        text = f"{call[0]} {orjson.dumps(call[1], option=orjson.OPT_SORT_KEYS).decode()}"
        self.same[text] += 1
        return f"position:{count or self.same[text]}:{text}"


@dataclass
class _TreeState:
    """The state that the clients of one tree of calls share."""

    agents: Mapping[str, Agent]
    secrets: Mapping[str, str]
    max_depth: int
    max_runs: int
    grace: float
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    runs: WeakKeyDictionary[_Context, int] = field(default_factory=WeakKeyDictionary)
    """The number of runs in the tree of each first caller, itself included."""
    histories: WeakKeyDictionary[_Context, _CallHistory] = field(default_factory=WeakKeyDictionary)


class InProcessA2AClient(A2AProvider, A2AClient):
    """An A2A client that runs the skills of `agents` in this process, under the fleet's rules.

    Each call gets its own `LocalRunContext`, with the caller's identity and at most its scopes,
    its deadline or an earlier one, its cancellation, and those of `secrets` that the called
    skill declares. Arguments and results are validated and travel as JSON; failed attempts are
    retried as the skill declares, after its backoff. Runs nest at most `max_depth`
    deep, a tree holds at most `max_runs` runs, and no call may come back to itself with the
    same arguments. Budgets are those of the callers' contexts, narrowed by each call's own.
    `grace` is the time in seconds that a cancelled skill has to end by itself.
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
        self._tree = _TreeState(known, dict(secrets or {}), max_depth, max_runs, grace)

    def open(self, scope: RunScope) -> A2AClient:
        """Return the client for the calls of a `LocalRunContext`'s run."""
        if not isinstance(scope, LocalRunScope):
            raise CapabilityUnavailableError("calls in process are made by a LocalRunContext only")
        return self._client_of(scope.context)

    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        """Run a skill without an authenticated caller (`NoAuth`); see `A2AClient.call`."""
        caller: _Context = LocalRunContext(auth=NoAuth(), task_id="local")
        return await self._client_of(caller).call(target, skill, args, options)

    def _client_of(self, caller: _Context) -> A2AClient:
        return _CallerClient(self._tree, caller, _TreePosition(caller))


class _CallerClient(A2AClient):
    """The client for the calls of one run."""

    def __init__(self, tree: _TreeState, caller: _Context, position: _TreePosition) -> None:
        self._tree = tree
        self._caller = caller
        self._position = position

    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        agent, found = self._find(target, skill)
        call = (found.spec.task_name, _arguments(found, args))
        made = self._tree.histories.setdefault(self._caller, _CallHistory())
        key = options.key
        name = f"key:{key}" if key is not None else self._position_of(call, made, options)
        async with made.locks[name]:
            if name not in made.finished:
                result = await self._run(agent, found, call, options)
                made.finished[name] = (call, result)
        former, result = made.finished[name]
        if former != call:
            raise IdempotencyConflictError(
                f"key {key!r} was used before in this run for another skill or other arguments"
            )
        return result

    def _position_of(self, call: _Call, made: _CallHistory, options: CallOptions) -> str:
        return made.position(call, self._caller.attempt, options.position)

    def _find(self, target: str, skill: str) -> tuple[Agent, Skill[..., Any]]:
        # The first caller counts as a run, too.
        if len(self._position.calls) + 1 >= self._tree.max_depth:
            limit = self._tree.max_depth
            raise LimitExceededError(
                f"runs may be nested {limit} deep: {target}.{skill} would be deeper"
            )
        agent = _known(self._tree.agents, target)
        if skill not in agent.skills:
            raise UnknownSkillError(
                f"agent {target!r} has no skill {skill!r}; it has: {_listed(agent.skills)}"
            )
        return agent, agent.skills[skill]

    async def _run(
        self, agent: Agent, skill: Skill[..., Any], call: _Call, options: CallOptions
    ) -> CallResult:
        parent, grant_id = self._caller, None
        if options.grant is not None:
            grants = LocalRunScope(parent).grants
            grant_id = (await grants.hand_over(options.grant, agent.name)).jti
        self._join_tree(call)
        parent.budget_tracker.charge_call()
        child = self._child(agent, skill, call)
        child.handed_over = options.grant
        child.budget_tracker = BudgetTracker(options.budget, parent.budget_tracker)
        child.deadline = earlier(parent.deadline, options.timeout)
        parent.adopt(child)
        try:
            result = await run_to_end(skill, child, call[1], grace=self._tree.grace)
        finally:
            child.cancel("the run has ended")
            parent.release(child)
        events = tuple(event for event in child.events if event.kind not in _OF_THE_FLEET)
        return CallResult(result, events, tuple(child.artifact_refs.values()), grant_id)

    def _join_tree(self, call: _Call) -> None:
        """Add a run to the tree; raises LimitExceededError where the tree is full."""
        if call in self._position.calls:
            raise LimitExceededError(
                f"{call[0]} is called with the same arguments by a run above: a cycle"
            )
        root = self._position.root
        count = self._tree.runs.get(root, 1)
        if count >= self._tree.max_runs:
            raise LimitExceededError(f"the tree of runs already holds {count} runs")
        self._tree.runs[root] = count + 1

    def _child(self, agent: Agent, skill: Skill[..., Any], call: _Call) -> _Context:
        run_id = f"{self._caller.task_id}.{next(self._tree.numbers)}"
        secrets = self._tree.secrets
        try:
            auth = narrowed_auth(agent.auth_model, self._caller.auth)
        except UnauthorizedError as error:
            raise RunFailed(error_text(error), code=error_code(error), run_id=run_id) from error
        position = replace(self._position, calls=(*self._position.calls, call))
        child: _Context = LocalRunContext(
            auth=auth,
            task_id=run_id,
            secrets={name: secrets[name] for name in skill.spec.secrets if name in secrets},
            a2a=_ChildCalls(self._tree, position),
            discover=LocalDiscovery(self._tree.agents.values()),
            workspace=self._caller.workspaces,
            answers=self._caller.answers,
            clock=self._caller.clock,
        )
        child.root_id = self._caller.root_id
        child.agent, child.authority = agent.name, self._caller.authority
        return child


class _ChildCalls(A2AProvider):
    """A provider that opens the client of one called run."""

    def __init__(self, tree: _TreeState, position: _TreePosition) -> None:
        self._tree = tree
        self._position = position

    def open(self, scope: RunScope) -> A2AClient:
        if not isinstance(scope, LocalRunScope):
            raise CapabilityUnavailableError("calls in process are made by a LocalRunContext only")
        return _CallerClient(self._tree, scope.context, self._position)


class LocalDiscovery(DiscoveryClient):
    """A discovery client that finds the given agents, which are always alive."""

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
        """Return at most `limit` agents that fit every given criterion, ordered by name."""
        found = [
            agent
            for agent in map(_discovered, self._agents.values())
            if card_matches(agent.card, tags=tags, capability=capability, skill=skill)
        ]
        return sorted(found, key=lambda agent: agent.name)[:limit]

    async def get_agent(self, name: str) -> DiscoveredAgent:
        """Return the agent called `name`; raises `UnknownAgentError` with the known names."""
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
    """Return the arguments as they would arrive at a worker, checked."""
    name, limits = skill.spec.task_name, Limits()
    arguments: dict[str, Any] = json_arguments(
        name, {} if args is None else args, limits.arguments_bytes
    ).plain
    skill.check(arguments)
    return arguments
