"""Workspaces in the object store of artifacts, for workers that share no volume."""

import asyncio
import os
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import Field

from skillfleet.errors import SettingsError
from skillfleet.ports.loading import load
from skillfleet.ports.objects import OBJECTS, ObjectStore
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease, ReapingProvider
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, RunScope
from skillfleet.ports.settings import AdapterSettings
from skillfleet.ports.workspace import (
    WORKSPACE,
    WorkspaceProvider,
    WorkspaceStorage,
    workspace_id,
)
from skillfleet.workspaces.directory import folder_name
from skillfleet.workspaces.sweeping import sweep_state
from skillfleet_adapters.workspace.directory import LedgerRecords
from skillfleet_adapters.workspace.local_files import PackCache
from skillfleet_adapters.workspace.object_storage import ObjectStorage, WorkspaceLedger
from skillfleet_adapters.workspace.objects import WorkspaceObjects
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.workspaces import Writer

_MEBIBYTE: Final = 1024 * 1024
_NO_FLEET: Final = "local"
"""The label of runs without a ledger; no worker's fleet has it."""


class ObjectStoreWorkspaceSettings(AdapterSettings):
    """Workspaces in the object store, read by workers and producers."""

    workspace_cache: Path | None = None
    """Local folder of `SKILLFLEET_WORKSPACE=object_store`, which may be lost at any time; by
    default one for each user below the system's folder for temporary files."""
    workspace_cache_bytes: int = Field(512 * _MEBIBYTE, ge=16 * _MEBIBYTE)
    """Size above which that folder loses what was not read for the longest time. What runs have
    written and not published yet comes on top."""


class ObjectStoreWorkspaces(WorkspaceProvider, ReapingProvider[WorkspaceStorage]):
    """A provider of workspaces in an object store, whose manifests are in the ledger."""

    def __init__(self, store: ObjectStore, ledger: Callable[[], Ledger], cache: PackCache) -> None:
        self._store = store
        self._ledger = ledger
        self._cache = cache
        self._empty: dict[int, list[str]] = defaultdict(list)

    def storage(self, identifier: str) -> ObjectStorage:
        """Return the storage for producers, which publish each change."""
        return self._storage(identifier, Writer(), _awaited)

    def open(self, scope: RunScope, identifier: str | None = None) -> ObjectStorage:
        """Return the storage for an attempt, whose changes need its lease.

        A run of no fleet, as of `LocalRunContext`, has none: it writes as a producer does.
        """
        identifier = workspace_id(scope) if identifier is None else identifier
        labels = scope.resource_labels()
        if labels[FLEET_LABEL] == _NO_FLEET:
            local = self.storage(identifier)
            scope.defer(local.aclose)
            return local
        writer = Writer(labels[RUN_LABEL], labels[LEASE_LABEL])
        storage = self._storage(identifier, writer, scope.on_home_loop)
        scope.before_record(storage.flush)
        scope.defer(storage.aclose)
        return storage

    async def reap(self, holds_lease: HoldsLease) -> None:
        """Delete what ended runs and sessions have left, and what the local folder has too much."""
        del holds_lease
        await asyncio.to_thread(self._cache.trim)
        ledger = self._ledger()
        for shard in range(ledger.settings.shards):
            empty, self._empty[shard] = self._empty[shard], []
            for workspace, manifest in await ledger.workspaces.due(shard, empty):
                if await self._objects(workspace).sweep_beside(manifest):
                    self._empty[shard].append(workspace)
                elif manifest:
                    await sweep_state(self.storage(workspace), LedgerRecords(ledger))

    def _storage(
        self,
        identifier: str,
        writer: Writer,
        at_home: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]],
    ) -> ObjectStorage:
        workspaces = self._ledger().workspaces
        return ObjectStorage(
            WorkspaceLedger(identifier, workspaces, writer, at_home),
            self._objects(identifier),
            self._cache,
        )

    def _objects(self, identifier: str) -> WorkspaceObjects:
        name = f"{self._ledger().settings.namespace}/{folder_name(identifier)}"
        return WorkspaceObjects(self._store, name, self._cache)


async def _awaited(work: Coroutine[Any, Any, Any]) -> Any:
    return await work


def create(environment: AdapterEnvironment) -> WorkspaceProvider:
    """Return the provider; raises SettingsError without an object store."""
    settings = ObjectStoreWorkspaceSettings.load(environment.variables)
    base = environment.variables.get(OBJECTS.variable)
    if not base:
        raise SettingsError(
            f"{WORKSPACE.variable}=object_store needs {OBJECTS.variable}, such as"
            " s3://bucket/prefix or file:///folder"
        )
    variables = {
        **environment.variables,
        OBJECTS.variable: f"{base.rstrip('/')}/workspaces",
    }
    store = load(OBJECTS, urlsplit(base).scheme, AdapterEnvironment(variables=variables))
    if store is None:
        raise SettingsError(f"{OBJECTS.variable}: {base!r} names no object store")
    default = Path(tempfile.gettempdir()) / f"skillfleet-workspaces-{os.geteuid()}"
    cache = PackCache(settings.workspace_cache or default, settings.workspace_cache_bytes)
    return ObjectStoreWorkspaces(store, lambda: environment.service(Ledger), cache)
