"""What the fleet can do, as its workers published it; read through a short cache."""

import asyncio
from collections.abc import Mapping
from typing import Any

from skillfleet.arguments import check_arguments
from skillfleet.contracts import AgentCard, SkillCard
from skillfleet.errors import InvalidArgumentsError, UnknownSkillError
from skillfleet_ledger import Ledger

_FRESH_SECONDS = 5.0
_EMPTY_SECONDS = 0.5


class Catalogue:
    """Checks invocations before they are written, and knows the queue of each agent."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cards: list[AgentCard] = []
        self._read_at = float("-inf")
        self._reading: asyncio.Future[None] | None = None

    async def queue_for(self, agent: str, skill: str, arguments: Mapping[str, Any]) -> str | None:
        """The queue that carries the skill; None when no worker ever told.

        Raises UnknownSkillError (with the known skills) and InvalidArgumentsError when no
        served version of the skill takes the arguments. While the catalogue is empty, as
        before the first worker starts, everything passes: the worker checks again.
        """
        cards = await self._cards_with(agent, skill)
        if not cards:
            return None
        problem: InvalidArgumentsError | None = None
        for agent_card, skill_card in reversed(cards):
            try:
                check_arguments(f"{agent}.{skill}", skill_card.input_schema, arguments)
            except InvalidArgumentsError as error:
                problem = problem or error
            else:
                return agent_card.queue
        raise problem or InvalidArgumentsError(f"arguments of {agent}.{skill} do not fit")

    async def _cards_with(self, agent: str, skill: str) -> list[tuple[AgentCard, SkillCard]]:
        for refresh in (False, True):
            cards = await self._read(refresh=refresh and bool(self._cards))
            found = [
                (card, match)
                for card in cards
                if card.name == agent and (match := card.skill(skill)) is not None
            ]
            if found or not cards:
                return found
        known = sorted({f"{card.name}.{entry.name}" for card in cards for entry in card.skills})
        raise UnknownSkillError(
            f"no worker of this fleet serves {agent}.{skill}; known skills: {', '.join(known)}"
        )

    async def _read(self, *, refresh: bool) -> list[AgentCard]:
        age = asyncio.get_running_loop().time() - self._read_at
        if refresh or age > (_FRESH_SECONDS if self._cards else _EMPTY_SECONDS):
            # One read for all who ask meanwhile: none waits for the failures of those before it.
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._fetch())
            await asyncio.shield(self._reading)
        return self._cards

    async def _fetch(self) -> None:
        try:
            self._cards = await self._ledger.directory.catalogue()
            self._read_at = asyncio.get_running_loop().time()
        finally:
            self._reading = None
