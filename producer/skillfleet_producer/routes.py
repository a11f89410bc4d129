"""What the fleet can do, as its workers published it; read through a short cache."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from skillfleet.arguments import arguments_check
from skillfleet.contracts import AgentCard
from skillfleet.errors import InvalidArgumentsError, UnknownSkillError
from skillfleet_ledger import Ledger

_FRESH_SECONDS = 5.0
_EMPTY_SECONDS = 0.5

Taker = Callable[[Mapping[str, Any]], str | None]
"""Tells the queue that carries a skill's arguments; None when no worker ever told.

Raises InvalidArgumentsError when no served version of the skill takes them. Only live versions
count, as long as there is one.
"""


class Catalogue:
    """Checks invocations before they are written, and knows the queue of each agent."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cards: list[AgentCard] = []
        self._live: set[tuple[str, str]] = set()
        self._takers: dict[tuple[str, str], Taker] = {}
        self._read_at = float("-inf")

    async def taker(self, agent: str, skill: str) -> Taker:
        """What checks arguments for the skill, and tells the queue that carries them.

        Raises UnknownSkillError (with the known skills). While the catalogue is empty, as
        before the first worker starts, everything passes: the worker checks again.
        """
        for refresh in (False, True):
            await self._read(refresh=refresh and bool(self._cards))
            found = self._takers.get((agent, skill)) or self._new_taker(agent, skill)
            if found is not None:
                return found
        names = {f"{card.name}.{entry.name}" for card in self._cards for entry in card.skills}
        known = ", ".join(sorted(names))
        raise UnknownSkillError(
            f"no worker of this fleet serves {agent}.{skill}; known skills: {known}"
        )

    def _new_taker(self, agent: str, skill: str) -> Taker | None:
        # Another thread may read the cards anew meanwhile: what stems from these goes with them.
        known = self._takers
        if not self._cards:
            return anything
        found = [
            (card, match)
            for card in reversed(self._cards)
            if card.name == agent and (match := card.skill(skill)) is not None
        ]
        takers = [
            _taker(card.queue, arguments_check(f"{agent}.{skill}", match.input_schema))
            for card, match in [pair for pair in found if self._lives(pair[0])] or found
        ]
        if not takers:
            return None
        return known.setdefault((agent, skill), _first_of(takers))

    async def _read(self, *, refresh: bool) -> None:
        age = time.monotonic() - self._read_at
        if refresh or age > (_FRESH_SECONDS if self._cards else _EMPTY_SECONDS):
            # One read for all who ask meanwhile: none waits for the failures of those before it.
            await self._ledger.connection.once("catalogue", self._fetch)

    async def _fetch(self) -> None:
        live = await self._ledger.directory.live()
        cards = await self._ledger.directory.catalogue()
        self._live, self._cards = live, sorted(cards, key=lambda card: card.order)
        self._takers = {}
        self._read_at = time.monotonic()

    def _lives(self, card: AgentCard) -> bool:
        return (card.name, card.version) in self._live


def anything(arguments: Mapping[str, Any]) -> None:  # noqa: ARG001 - nobody knows better
    """Take all arguments; the queue is not known."""
    return


def _taker(queue: str, check: Callable[[Mapping[str, Any]], None]) -> Taker:
    def take(arguments: Mapping[str, Any]) -> str | None:
        check(arguments)
        return queue

    return take


def _first_of(takers: list[Taker]) -> Taker:
    if len(takers) == 1:
        return takers[0]

    def take(arguments: Mapping[str, Any]) -> str | None:
        problem: InvalidArgumentsError | None = None
        for taker in takers:
            try:
                return taker(arguments)
            except InvalidArgumentsError as error:
                problem = problem or error
        raise problem or InvalidArgumentsError("nobody takes these arguments")

    return take
