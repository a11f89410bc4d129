"""Providers of workspaces in an object store, with a ledger of their own."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from skillfleet import LocalRunContext, NoAuth
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL
from skillfleet.ports.workspace import WORKSPACE
from skillfleet.testing.local_context import LocalRunScope
from skillfleet_adapters.workspace.object_store import ObjectStoreWorkspaces
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease
from tests.ledger.helpers import settings_for
from tests.support.valkey import ValkeyServer


def provider_of(ledger: Ledger, variables: Mapping[str, str]) -> ObjectStoreWorkspaces:
    environment = AdapterEnvironment(variables=variables, services={Ledger: ledger})
    provider = load(WORKSPACE, "object_store", environment)
    assert isinstance(provider, ObjectStoreWorkspaces)
    return provider


@asynccontextmanager
async def object_store_workspaces(
    valkey: ValkeyServer, url: str
) -> AsyncIterator[ObjectStoreWorkspaces]:
    """A provider on an empty server, with a local folder of its own."""
    ledger = Ledger(settings_for(valkey))
    try:
        with tempfile.TemporaryDirectory() as folder:
            given = {"SKILLFLEET_ARTIFACTS_URL": url, "SKILLFLEET_WORKSPACE_CACHE": folder}
            yield provider_of(ledger, {**os.environ, **given})
    finally:
        await ledger.close()


class LeasedScope(LocalRunScope):
    """The scope of an attempt that the ledger knows, for adapters that need its lease."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(LocalRunContext(auth=NoAuth(), task_id=lease.run_id))
        self._lease = lease
        self._writes: list[Callable[[], Awaitable[None]]] = []

    def before_record(self, write: Callable[[], Awaitable[None]]) -> None:
        self._writes.append(write)

    def resource_labels(self) -> Mapping[str, str]:
        token = str(self._lease.token)
        return {FLEET_LABEL: "tests", RUN_LABEL: self.run_id, LEASE_LABEL: token}

    async def record(self) -> None:
        """Do what a worker does before it records something."""
        for write in self._writes:
            await write()

    async def end(self) -> None:
        """End the attempt."""
        await self.context.aclose()
