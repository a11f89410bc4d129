"""Workspaces in folders of a local or shared volume."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from skillfleet.contracts import RunState
from skillfleet.errors import SettingsError
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease, ReapingProvider
from skillfleet.ports.settings import AdapterSettings
from skillfleet.ports.workspace import WorkspaceProvider, WorkspaceStorage
from skillfleet.workspaces.directory import DirectoryWorkspaces
from skillfleet.workspaces.sweeping import DirectorySweep
from skillfleet_ledger import Ledger

_ENDED: Final = frozenset(state.value for state in RunState if state.terminal)


class DirectoryWorkspaceSettings(AdapterSettings):
    """Workspaces in folders, read by workers and producers."""

    workspace_directory: Path | None = None
    """Folder of workspaces, for `SKILLFLEET_WORKSPACE=directory`: an absolute path, on a volume
    that all workers and producers of the fleet share. Another fleet needs another folder."""


class FleetDirectories(DirectoryWorkspaces, ReapingProvider[WorkspaceStorage]):
    """A provider of the folders of a fleet, whose records say which ones are needed."""

    def __init__(self, directory: Path, ledger: Callable[[], Ledger]) -> None:
        super().__init__(directory)
        self._ledger = ledger

    async def reap(self, holds_lease: HoldsLease) -> None:
        """Remove what ended runs and sessions have left."""
        del holds_lease
        ledger = self._ledger()
        seconds = ledger.settings.session_retention_seconds
        await DirectorySweep(self, LedgerRecords(ledger), seconds).sweep()


class LedgerRecords:
    """The records of a fleet in its ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def live_runs(self, run_ids: Collection[str]) -> set[str]:
        """Return those of the runs that have not ended."""
        found = await self._ledger.queries.recorded(list(run_ids))
        return {run_id for run_id, state in found.items() if state not in _ENDED}

    async def recorded_runs(self, run_ids: Collection[str]) -> set[str]:
        """Return those of the runs that are recorded."""
        return set(await self._ledger.queries.recorded(list(run_ids)))

    async def recorded_sessions(self, sessions: Collection[str]) -> set[str]:
        """Return those of the sessions that are recorded."""
        return await self._ledger.sessions.recorded(list(sessions))


def create(environment: AdapterEnvironment) -> WorkspaceProvider:
    """Return the provider; raises SettingsError without SKILLFLEET_WORKSPACE_DIRECTORY."""
    directory = DirectoryWorkspaceSettings.load(environment.variables).workspace_directory
    if directory is None or not directory.is_absolute():
        raise SettingsError("SKILLFLEET_WORKSPACE_DIRECTORY: must be an absolute path")
    return FleetDirectories(directory, lambda: environment.service(Ledger))
