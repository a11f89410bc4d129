"""A third party's adapters: a source of secrets, and a discovery client with external resources.

The tests install this file in a folder of its own, with an entry point for each adapter.
"""

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import SettingsConfigDict

from skillfleet.contracts import AgentCard
from skillfleet.errors import UnknownAgentError
from skillfleet.ports.discovery import (
    DiscoveredAgent,
    DiscoveryClient,
    DiscoveryProvider,
    card_matches,
)
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease, ReapingProvider
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, RunScope
from skillfleet.ports.secrets import Secrets
from skillfleet.ports.settings import AdapterSettings


class AcmeSettings(AdapterSettings):
    """Both adapters read a folder."""

    model_config = SettingsConfigDict(env_prefix="ACME_")

    vault: Path = Path("vault.json")
    registry: Path = Path("registry")


class VaultSecrets(Secrets):
    """Reads a JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def get(self, name: str) -> str | None:
        value = json.loads(self._file.read_text()).get(name)
        return str(value) if value is not None else None


def create_vault(environment: AdapterEnvironment) -> Secrets:
    return VaultSecrets(AcmeSettings.load(environment.variables).vault)


class RegistryClient(DiscoveryClient):
    """Reads cards from `cards.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def find_agents(
        self,
        *,
        tags: Sequence[str] = (),
        capability: str | None = None,
        skill: str | None = None,
        limit: int = 10,
    ) -> list[DiscoveredAgent]:
        return [
            DiscoveredAgent(card.name, card)
            for card in self._cards()
            if card_matches(card, tags=tags, capability=capability, skill=skill)
        ][:limit]

    async def get_agent(self, name: str) -> DiscoveredAgent:
        found = [card for card in self._cards() if card.name == name]
        if not found:
            known = ", ".join(card.name for card in self._cards())
            raise UnknownAgentError(f"there is no agent {name!r}; known are: {known}")
        return DiscoveredAgent(name, found[-1])

    def _cards(self) -> list[AgentCard]:
        text = (self._folder / "cards.json").read_text()
        return [AgentCard.model_validate(card) for card in json.loads(text)]


class RegistryProvider(DiscoveryProvider, ReapingProvider[DiscoveryClient]):
    """Each client has a session, a folder that must not outlive its attempt."""

    def __init__(self, folder: Path, fleet: str) -> None:
        self._folder = folder
        self._fleet = fleet

    def open(self, scope: RunScope) -> DiscoveryClient:
        labels = scope.resource_labels()
        session = self._folder / "sessions" / labels[RUN_LABEL]
        session.mkdir(parents=True, exist_ok=True)
        # A worker may be killed at any moment: a reaper must not find half of the labels.
        new = self._folder / f"labels-{uuid.uuid4()}"
        new.write_text(json.dumps(dict(labels)))
        new.rename(session / "labels")

        async def close() -> None:
            await asyncio.sleep(0)
            self._remove(session, "closed")

        scope.defer(close)
        return RegistryClient(self._folder)

    async def reap(self, holds_lease: HoldsLease) -> None:
        for file in self._folder.glob("sessions/*/labels"):
            labels = json.loads(file.read_text())
            if labels[FLEET_LABEL] != self._fleet:
                continue
            if not await holds_lease(labels[RUN_LABEL], labels[LEASE_LABEL]):
                self._remove(file.parent, "reaped")

    def _remove(self, session: Path, how: str) -> None:
        with (self._folder / "journal").open("a") as journal:
            journal.write(f"{how} {session.name}\n")
        (session / "labels").unlink(missing_ok=True)
        session.rmdir()


def create_registry(environment: AdapterEnvironment) -> DiscoveryProvider:
    folder = AcmeSettings.load(environment.variables).registry
    return RegistryProvider(folder, environment.fleet)
