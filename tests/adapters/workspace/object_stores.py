"""Providers of workspaces in an object store, with a ledger of their own."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.workspace import WORKSPACE
from skillfleet_adapters.workspace.object_store import ObjectStoreWorkspaces
from skillfleet_ledger import Ledger
from tests.ledger.helpers import settings_for
from tests.support.valkey import ValkeyServer


def provider_of(ledger: Ledger, variables: Mapping[str, str]) -> ObjectStoreWorkspaces:
    environment = AdapterEnvironment(variables=variables, services={Ledger: ledger})
    provider = load(WORKSPACE, "object_store", environment)
    assert isinstance(provider, ObjectStoreWorkspaces)
    return provider


@asynccontextmanager
async def object_store_workspaces(
    valkey: ValkeyServer, url: str, variables: Mapping[str, str] | None = None
) -> AsyncIterator[ObjectStoreWorkspaces]:
    """A provider on an empty server, with a local folder of its own."""
    ledger = Ledger(settings_for(valkey))
    try:
        with tempfile.TemporaryDirectory() as folder:
            given = {"SKILLFLEET_ARTIFACTS_URL": url, "SKILLFLEET_WORKSPACE_CACHE": folder}
            yield provider_of(ledger, {**(variables or {}), **given})
    finally:
        await ledger.close()
