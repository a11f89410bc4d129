"""Finding agents in the ledger's directory."""

from collections.abc import Sequence

from skillfleet.errors import UnknownAgentError
from skillfleet.ports.discovery import DiscoveredAgent, DiscoveryClient, card_matches
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger


class LedgerDiscovery(DiscoveryClient):
    """Knows the agents whose workers' heartbeat lasts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def find_agents(
        self,
        *,
        tags: Sequence[str] = (),
        capability: str | None = None,
        skill: str | None = None,
        limit: int = 10,
    ) -> list[DiscoveredAgent]:
        """See `DiscoveryClient.find_agents`."""
        cards = await bridge.at_home(self._ledger.directory.agents())
        found = [
            DiscoveredAgent(card.name, card)
            for card in cards
            if card_matches(card, tags=tags, capability=capability, skill=skill)
        ]
        return found[:limit]

    async def get_agent(self, name: str) -> DiscoveredAgent:
        """See `DiscoveryClient.get_agent`."""
        cards = await bridge.at_home(self._ledger.directory.agents())
        found = [card for card in cards if card.name == name]
        if not found:
            known = ", ".join(sorted({card.name for card in cards})) or "none"
            raise UnknownAgentError(f"no live agent is called {name!r}; known agents: {known}")
        return DiscoveredAgent(name, found[-1])
