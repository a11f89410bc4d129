"""Routes of skills: the queues of their runs and the arguments they accept, briefly cached."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from skillfleet.arguments import arguments_check
from skillfleet.contracts import AgentCard
from skillfleet.errors import InvalidArgumentsError, UnknownSkillError
from skillfleet_ledger.directory import Directory
from skillfleet_ledger.redis_client.connection import Connection

_FRESH_SECONDS = 5.0
_EMPTY_SECONDS = 0.5

Route = Callable[[Mapping[str, Any]], str | None]
"""Returns the queue for a skill's arguments; None when it is not known.

Raises InvalidArgumentsError when no served version of the skill accepts them. Only live versions
count, as long as there is one.
"""


class Catalogue:
    """The catalogue of skills: checks invocations before they are written, finds their queue."""

    def __init__(
        self, directory: Directory, connection: Connection, *, accept_new_agents: bool
    ) -> None:
        self._directory = directory
        self._connection = connection
        self._accept_new_agents = accept_new_agents
        self._cards: list[AgentCard] = []
        self._live: set[tuple[str, str]] = set()
        self._routes: dict[tuple[str, str], Route] = {}
        self._read_at = float("-inf")

    async def route_for(self, agent: str, skill: str, *, is_called: bool = False) -> Route:
        """Return the route of a skill.

        Raises UnknownSkillError (with the known skills). While the catalogue is empty, as
        before the first worker starts, every call is accepted: the worker checks again. So is a
        run of an agent that no worker has served yet, as when its producer is deployed first; but
        not one that another run calls (`is_called`), which would wait for it.
        """
        for refresh in (False, True):
            await self._read(refresh=refresh and bool(self._cards))
            found = self._routes.get((agent, skill)) or self._new_route(agent, skill)
            if found is not None:
                return found
        is_new = all(card.name != agent for card in self._cards)
        if is_new and self._accept_new_agents and not is_called:
            return accept_any
        names = {f"{card.name}.{entry.name}" for card in self._cards for entry in card.skills}
        known = ", ".join(sorted(names))
        raise UnknownSkillError(
            f"no worker of this fleet serves {agent}.{skill}; known skills: {known}"
        )

    def _new_route(self, agent: str, skill: str) -> Route | None:
        # Another thread may replace the cards meanwhile, and with them the routes made from them.
        known = self._routes
        if not self._cards:
            return accept_any
        found = [
            (card, match)
            for card in reversed(self._cards)
            if card.name == agent and (match := card.skill(skill)) is not None
        ]
        routes = [
            _route(card.queue, arguments_check(f"{agent}.{skill}", match.input_schema))
            for card, match in [pair for pair in found if self._lives(pair[0])] or found
        ]
        if not routes:
            return None
        return known.setdefault((agent, skill), _first_of(routes))

    async def _read(self, *, refresh: bool) -> None:
        age = time.monotonic() - self._read_at
        if refresh or age > (_FRESH_SECONDS if self._cards else _EMPTY_SECONDS):
            # Concurrent callers share one read: none waits for the failures of earlier ones.
            await self._connection.single_flight("catalogue", self._fetch)

    async def _fetch(self) -> None:
        live = await self._directory.live()
        cards = await self._directory.catalogue()
        self._live, self._cards = live, sorted(cards, key=lambda card: card.order)
        self._routes = {}
        self._read_at = time.monotonic()

    def _lives(self, card: AgentCard) -> bool:
        return (card.name, card.version) in self._live


def accept_any(arguments: Mapping[str, Any]) -> None:  # noqa: ARG001 - nothing to check with
    """Accept all arguments: the route of an unknown skill."""
    return


def _route(queue: str, check: Callable[[Mapping[str, Any]], None]) -> Route:
    def route(arguments: Mapping[str, Any]) -> str | None:
        check(arguments)
        return queue

    return route


def _first_of(routes: list[Route]) -> Route:
    if len(routes) == 1:
        return routes[0]

    def route(arguments: Mapping[str, Any]) -> str | None:
        problem: InvalidArgumentsError | None = None
        for route in routes:
            try:
                return route(arguments)
            except InvalidArgumentsError as error:
                problem = problem or error
        raise problem or InvalidArgumentsError("no served version accepts these arguments")

    return route
