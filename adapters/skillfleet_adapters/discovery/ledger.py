"""Discovery in the ledger's directory of live agents."""

from collections.abc import Sequence
from dataclasses import dataclass

from skillfleet.contracts import AgentCard
from skillfleet.errors import UnknownAgentError
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.discovery import (
    DiscoveredAgent,
    DiscoveryClient,
    DiscoveryProvider,
    card_matches,
)
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.scope import RunScope
from skillfleet_ledger import Ledger


@dataclass(frozen=True)
class _State:
    ledger: Ledger
    scope: RunScope


_states: HiddenState[_State] = HiddenState()
"""The state of each client: skills hold clients, and must not reach the ledger through them."""


class LedgerDiscovery(DiscoveryClient):
    """A client that finds the agents that live workers of the fleet serve."""

    async def find_agents(
        self,
        *,
        tags: Sequence[str] = (),
        capability: str | None = None,
        skill: str | None = None,
        limit: int = 10,
    ) -> list[DiscoveredAgent]:
        """See `DiscoveryClient.find_agents`."""
        found = [
            DiscoveredAgent(card.name, card)
            for card in await self._cards()
            if card_matches(card, tags=tags, capability=capability, skill=skill)
        ]
        return found[:limit]

    async def get_agent(self, name: str) -> DiscoveredAgent:
        """See `DiscoveryClient.get_agent`."""
        cards = await self._cards()
        found = [card for card in cards if card.name == name]
        if not found:
            known = ", ".join(sorted({card.name for card in cards})) or "none"
            raise UnknownAgentError(f"no live agent is called {name!r}; known agents: {known}")
        return DiscoveredAgent(name, found[-1])

    async def _cards(self) -> Sequence[AgentCard]:
        state = _states.of(self)
        return await state.scope.on_home_loop(state.ledger.directory.agents())


class LedgerDiscoveryProvider(DiscoveryProvider):
    """A provider of clients that read the ledger of their worker."""

    def __init__(self, environment: AdapterEnvironment) -> None:
        self._environment = environment

    def open(self, scope: RunScope) -> DiscoveryClient:
        """Return the client of one attempt."""
        client = LedgerDiscovery()
        _states.attach(client, _State(self._environment.service(Ledger), scope))
        return client


def create(environment: AdapterEnvironment) -> DiscoveryProvider:
    """Return the discovery of the fleet's own agents."""
    return LedgerDiscoveryProvider(environment)
