"""The adapters of a worker: for each port, the one that a setting selects."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from skillfleet.agent import Agent
from skillfleet.ports.a2a import A2A, A2AProvider
from skillfleet.ports.admission import ADMISSION, Admission
from skillfleet.ports.checkpoint import CHECKPOINT, CheckpointProvider
from skillfleet.ports.discovery import DISCOVERY, DiscoveryProvider
from skillfleet.ports.loading import Port, load, names_of
from skillfleet.ports.orchestrator import ORCHESTRATOR, Orchestrator
from skillfleet.ports.provider import AdapterEnvironment, Provider, ReapingProvider
from skillfleet.ports.sandbox import SANDBOX, SandboxProvider
from skillfleet.ports.secrets import SECRETS, SHORTEST, Secrets
from skillfleet.ports.workspace import WORKSPACE, WorkspaceProvider
from skillfleet_adapters.secrets.chain import ChainedSecrets
from skillfleet_auth.grants import TokenGrants, grant_signer
from skillfleet_auth.settings import AuthSettings
from skillfleet_ledger import Settings
from skillfleet_ledger.redis_client.address import Address
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Adapters:
    """The adapters of one process."""

    fleet: str
    secrets: Secrets
    by_port: Mapping[str, Any]
    """The adapter of each other port; None where its settings leave it off."""

    def of(self, port: Port[T]) -> T | None:
        """Return the port's adapter; None when there is none."""
        adapter: T | None = self.by_port[port.name]
        return adapter

    @property
    def a2a(self) -> A2AProvider | None:
        """The provider of clients for calls to remote agents."""
        return self.of(A2A)

    @property
    def discovery(self) -> DiscoveryProvider | None:
        """The provider of clients that find agents."""
        return self.of(DISCOVERY)

    @property
    def workspace(self) -> WorkspaceProvider | None:
        """The provider of workspaces."""
        return self.of(WORKSPACE)

    @property
    def sandbox(self) -> SandboxProvider | None:
        """The provider of clients that execute code in isolation."""
        return self.of(SANDBOX)

    @property
    def checkpoint(self) -> CheckpointProvider | None:
        """The provider of clients that store folders."""
        return self.of(CHECKPOINT)

    @property
    def orchestrator(self) -> Orchestrator | None:
        """Reports the load of the process."""
        return self.of(ORCHESTRATOR)

    @property
    def admission(self) -> Admission | None:
        """Decides who may start a run."""
        return self.of(ADMISSION)

    @property
    def reaping(self) -> list[ReapingProvider[Any]]:
        """The providers whose external resources have to be reaped."""
        return [each for each in self.by_port.values() if isinstance(each, ReapingProvider)]

    async def keep_open(self) -> None:
        """Wait until cancelled, then close the providers; a service of the process."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for each in self.by_port.values():
                if isinstance(each, Provider):
                    try:
                        await each.aclose()
                    except Exception:
                        logger.exception("an adapter could not be closed: %s", type(each).__name__)


def load_adapters(
    settings: WorkerSettings, pool: str, services: Mapping[type[Any], Any] | None = None
) -> Adapters:
    """Create the adapters that the settings select.

    Without `services` only to check the settings: no adapter needs a ledger for that. Raises
    SettingsError.
    """
    environment = AdapterEnvironment(
        fleet=fleet_label(settings),
        pool=pool,
        variables=os.environ,  # noqa: TID251 - adapters read their settings and secrets there
        services={Settings: settings, **(services or {})},
    )
    sources = {
        name: source
        for name in names_of(settings.secrets_sources)
        if (source := load(SECRETS, name, environment)) is not None
    }
    secrets = ChainedSecrets(sources)
    environment = replace(environment, secret=secrets.get)
    selected: dict[Port[Any], str] = {
        A2A: settings.a2a,
        DISCOVERY: settings.discovery,
        WORKSPACE: settings.workspace,
        CHECKPOINT: settings.checkpoint,
        ORCHESTRATOR: settings.orchestrator,
        SANDBOX: settings.sandbox,
        ADMISSION: settings.admission or ("token" if settings.auth == "required" else "open"),
    }
    loaded = {
        port.name: load(port, name, environment) if name else None
        for port, name in selected.items()
    }
    return Adapters(environment.fleet, secrets, loaded)


def grants_signer(settings: WorkerSettings) -> TokenGrants:
    """Return what signs and verifies grants; raises SettingsError for a key it cannot use."""
    return grant_signer(AuthSettings.load(os.environ), settings)  # noqa: TID251 - as above


def fleet_label(settings: Settings) -> str:
    """Return the fleet's name in labels, which differs even for fleets in the default namespace."""
    address = Address.parse(settings.redis_url)
    digest = hashlib.sha256(f"{address}/{address.database}".encode()).hexdigest()
    return f"{settings.namespace}-{digest[:8]}"


def unusable_secrets(agents: Sequence[Agent], secrets: Secrets) -> dict[str, tuple[str, ...]]:
    """Return the problems with the secrets of skills (task names), for skills that have any."""
    wrong = {
        skill.spec.task_name: tuple(
            problem
            for name in skill.spec.secrets
            if (problem := _problem_of(name, secrets.get(name))) is not None
        )
        for agent in agents
        for skill in agent.skills.values()
    }
    return {task: problems for task, problems in wrong.items() if problems}


def _problem_of(name: str, value: str | None) -> str | None:
    if value is None:
        return f"no source has its secret {name!r}"
    if len(value) < SHORTEST:
        return f"its secret {name!r} has fewer than {SHORTEST} characters and could not be hidden"
    return None
