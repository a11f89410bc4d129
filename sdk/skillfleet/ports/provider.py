"""The provider of a port: the interface of adapters, and the environment they get."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from skillfleet.errors import SettingsError
from skillfleet.ports.scope import RunScope

ClientT = TypeVar("ClientT")
ServiceT = TypeVar("ServiceT")

HoldsLease = Callable[[str, str], Awaitable[bool]]
"""Returns whether the attempt with this run id and lease (`resource_labels`) still runs."""


class Provider(ABC, Generic[ClientT]):
    """Opens a port's client for each attempt; one for each process that executes runs.

    Created by the adapter's `create(environment)`, which reads settings and opens no connection:
    it is also called just to check them. The first client that needs a connection opens it.

    Concurrency: `open` is called from any thread that executes runs (in the pool `threads`, at
    once); shared connections belong to the home loop (`RunScope.on_home_loop`).
    """

    @abstractmethod
    def open(self, scope: RunScope) -> ClientT:
        """Return the client of one attempt; on the loop that runs its skill.

        Called at the skill's first use of the port, at most once for each attempt. The client
        closes what it opens through `scope.defer`.
        """

    async def aclose(self) -> None:
        """Close the resources that clients share; on the home loop, when the process stops."""


class ReapingProvider(Provider[ClientT]):
    """A provider whose clients create resources outside of the worker's process.

    Such a resource (a container, a folder, a process) carries `RunScope.resource_labels`. The
    worker calls `reap` when it starts and in every lease time after that.
    """

    @abstractmethod
    async def reap(self, holds_lease: HoldsLease) -> None:
        """End every resource of this fleet whose attempt no longer holds its lease.

        A resource of another fleet (`environment.fleet`) stays. On the home loop of each
        process that executes runs: several may reap at once, and a resource may already be gone.
        `holds_lease` raises `FleetUnavailableError` without Redis: let it pass.
        """


@dataclass(frozen=True)
class AdapterEnvironment:
    """The argument that a runtime passes to an adapter's `create`."""

    fleet: str = "local"
    """The fleet's name, for the label of external resources."""
    pool: str = "local"
    """The worker's pool: loop, prefork or threads; `local` without a worker."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The environment variables, from which an adapter reads its settings."""
    secret: Callable[[str], str | None] = lambda _: None
    """The value of one of the worker's own secrets; None when no source has it."""
    services: Mapping[type[Any], Any] = field(default_factory=dict)
    """Shared objects by type; ask with `service`."""

    def service(self, kind: type[ServiceT]) -> ServiceT:
        """Return a shared object of the runtime, such as the worker's `Ledger`. Not in `create`.

        Raises SettingsError where the runtime has none, so that the adapter cannot be used.
        """
        found = self.services.get(kind)
        if not isinstance(found, kind):
            raise SettingsError(f"this adapter needs a {kind.__name__}, which only a worker has")
        return found
