"""The port for discovery: finding agents that can be called."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from skillfleet.contracts import AgentCard
from skillfleet.errors import InvalidArgumentsError
from skillfleet.ports.loading import Port
from skillfleet.ports.provider import Provider


@dataclass(frozen=True, slots=True)
class DiscoveredAgent:
    """An agent that can be called now. `url` is None for one of the same fleet."""

    name: str
    card: AgentCard
    url: str | None = None


class DiscoveryClient(ABC):
    """Finds agents that are alive.

    Concurrency: any number of lookups at once, from one event loop. Cancellation: at any
    point, without effect. Forbidden: returning an agent that no live worker serves.
    """

    @abstractmethod
    async def find_agents(
        self,
        *,
        tags: Sequence[str] = (),
        capability: str | None = None,
        skill: str | None = None,
        limit: int = 10,
    ) -> list[DiscoveredAgent]:
        """At most `limit` agents that fit every given criterion, ordered by name and version.

        `tags`: at least one of them is a tag of the agent or of one of its skills.
        `capability`: a phrase in the name or description of the agent or one of its skills.
        `skill`: the exact name of one of its skills. Tags and phrases ignore case. While two
        versions of an agent are deployed, both are found. An empty list is no error.
        """

    @abstractmethod
    async def get_agent(self, name: str) -> DiscoveredAgent:
        """Return the agent called `name` (its newest version).

        Raises `UnknownAgentError`, which lists the known ones.
        """


class DiscoveryProvider(Provider[DiscoveryClient]):
    """Opens the discovery client of each attempt."""


DISCOVERY: Final[Port[DiscoveryProvider]] = Port(
    "discovery", DiscoveryProvider, "SKILLFLEET_DISCOVERY"
)


def card_matches(
    card: AgentCard,
    *,
    tags: Sequence[str] = (),
    capability: str | None = None,
    skill: str | None = None,
) -> bool:
    """Return whether an agent fits every given criterion of `DiscoveryClient.find_agents`.

    Raises InvalidArgumentsError for tags given as one string, which is a sequence of letters.
    """
    if isinstance(tags, str):
        raise InvalidArgumentsError(f"tags must be a list of strings: [{tags!r}], not {tags!r}")
    if tags and not _folded(tags) & _folded(_all_tags(card)):
        return False
    if capability is not None and capability.casefold() not in _all_words(card).casefold():
        return False
    return skill is None or card.skill(skill) is not None


def _folded(words: Iterable[str]) -> set[str]:
    return {word.casefold() for word in words}


def _all_tags(card: AgentCard) -> list[str]:
    return [*card.tags, *(tag for skill in card.skills for tag in skill.tags)]


def _all_words(card: AgentCard) -> str:
    parts = [(card.name, card.description), *((s.name, s.description) for s in card.skills)]
    return "\n".join(text for part in parts for text in part)
