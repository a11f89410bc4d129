"""Conformance of discovery clients."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.contracts import AgentCard, SkillCard
from skillfleet.errors import InvalidArgumentsError, UnknownAgentError
from skillfleet.ports.discovery import DiscoveryClient, DiscoveryProvider
from skillfleet.ports.scope import RunScope
from skillfleet.testing.conformance.object_graph import reachable

Body = Callable[[DiscoveryClient], Awaitable[None]]


def _card(name: str, version: str, tags: tuple[str, ...], *skills: SkillCard) -> AgentCard:
    return AgentCard(
        name=name,
        description=f"The agent {name}",
        version=version,
        tags=tags,
        queue="celery",
        skills=skills,
    )


def _skill(name: str, description: str = "", tags: tuple[str, ...] = ()) -> SkillCard:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    return SkillCard(name=name, description=description, tags=tags, input_schema=schema)


CARDS: tuple[AgentCard, ...] = (
    _card("librarian", "0.9.0", ("Books",), _skill("survey", "Counts what is on a SHELF")),
    _card("librarian", "0.10.0", ("Books",), _skill("survey", "Counts what is on a SHELF")),
    _card("carpenter", "1.0.0", (), _skill("saw", tags=("Wood",)), _skill("hammer")),
    _card("painter", "1.0.0", ("wood", "colour"), _skill("paint")),
)


class DiscoverySuite(ABC):
    """Subclass it as `Test...` and implement `provider`."""

    several_versions: ClassVar[bool] = True
    """False for a client that knows one version of each agent only."""

    @abstractmethod
    def provider(
        self, cards: Sequence[AgentCard]
    ) -> AbstractAsyncContextManager[DiscoveryProvider]:
        """Return a provider whose clients find exactly these live agents.

        Two cards of one name are two versions, the last one the newest.
        """

    @property
    def cards(self) -> Sequence[AgentCard]:
        """The agents that are live."""
        return CARDS if self.several_versions else CARDS[1:]

    def run(self, body: Body, cards: Sequence[AgentCard] | None = None) -> None:
        """Await `body` with a client that was opened for a run."""
        live = self.cards if cards is None else cards

        async def main() -> None:
            async with self.provider(live) as provider:
                ctx = LocalRunContext(auth=NoAuth(), discover=provider)
                try:
                    await body(ctx.discover)
                finally:
                    await ctx.aclose()
                    await provider.aclose()

        asyncio.run(main())

    def find(self, **criteria: Any) -> list[tuple[str, str]]:
        """Return names and versions of the agents that fit the criteria."""
        found: list[tuple[str, str]] = []

        async def body(client: DiscoveryClient) -> None:
            agents = await client.find_agents(**criteria)
            assert all(agent.name == agent.card.name for agent in agents)
            found.extend((agent.name, agent.card.version) for agent in agents)

        self.run(body)
        return found

    def test_finds_all_agents_by_name_and_version(self) -> None:
        newest = [("librarian", "0.10.0"), ("painter", "1.0.0")]
        former = [("librarian", "0.9.0")] if self.several_versions else []
        assert self.find() == [("carpenter", "1.0.0"), *former, *newest]

    def test_an_agent_fits_by_any_tag_of_itself_or_a_skill_in_any_case(self) -> None:
        assert self.find(tags=["nothing has this", "WOOD"]) == [
            ("carpenter", "1.0.0"),
            ("painter", "1.0.0"),
        ]

    def test_an_agent_fits_by_a_phrase_in_any_case(self) -> None:
        assert {name for name, _ in self.find(capability="on a shelf")} == {"librarian"}
        assert {name for name, _ in self.find(capability="agent PAINT")} == {"painter"}

    def test_an_agent_fits_by_the_exact_name_of_a_skill(self) -> None:
        assert self.find(skill="hammer") == [("carpenter", "1.0.0")]
        assert self.find(skill="ham") == []

    def test_every_criterion_has_to_fit(self) -> None:
        assert self.find(tags=["wood"], skill="paint") == [("painter", "1.0.0")]
        assert self.find(tags=["books"], skill="paint") == []

    def test_no_more_than_the_limit(self) -> None:
        assert len(self.find(limit=2)) == 2

    def test_tags_given_as_one_string_are_refused(self) -> None:
        async def body(client: DiscoveryClient) -> None:
            with pytest.raises(InvalidArgumentsError):
                await client.find_agents(tags="wood")

        self.run(body)

    def test_the_newest_version_by_name(self) -> None:
        async def body(client: DiscoveryClient) -> None:
            found = await client.get_agent("librarian")
            assert (found.name, found.card.version) == ("librarian", "0.10.0")

        self.run(body)

    def test_an_unknown_agent_is_an_error_that_lists_the_known_ones(self) -> None:
        async def body(client: DiscoveryClient) -> None:
            with pytest.raises(UnknownAgentError, match="carpenter") as unknown:
                await client.get_agent("plumber")
            assert "plumber" in str(unknown.value)

        self.run(body)

    def test_no_agents_are_no_error(self) -> None:
        async def body(client: DiscoveryClient) -> None:
            assert await client.find_agents() == []
            with pytest.raises(UnknownAgentError):
                await client.get_agent("librarian")

        self.run(body, ())

    def test_lookups_run_at_once_and_may_be_cancelled(self) -> None:
        async def body(client: DiscoveryClient) -> None:
            cancelled = asyncio.ensure_future(client.find_agents())
            await asyncio.sleep(0)
            cancelled.cancel()
            found = await asyncio.gather(*(client.find_agents() for _ in range(20)))
            assert {len(agents) for agents in found} == {len(self.cards)}

        self.run(body)

    def test_a_client_does_not_show_its_scope_to_the_skill(self) -> None:
        async def body(client: DiscoveryClient) -> None:
            await client.find_agents()
            shown = [path for path, found in reachable(client) if isinstance(found, RunScope)]
            assert not shown, "keep the scope in a skillfleet.hidden_state.HiddenState"

        self.run(body)
