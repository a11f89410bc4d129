"""Workspaces in folders of a local or shared volume."""

from pathlib import Path

from skillfleet.errors import SettingsError
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.settings import AdapterSettings
from skillfleet.ports.workspace import WorkspaceProvider
from skillfleet.workspaces.directory import DirectoryWorkspaces


class DirectoryWorkspaceSettings(AdapterSettings):
    """Workspaces in folders, read by workers and producers."""

    workspace_directory: Path | None = None
    """Folder of workspaces, for `SKILLFLEET_WORKSPACE=directory`: an absolute path, on a volume
    that all workers and producers of the fleet share. Another fleet needs another folder."""


def create(environment: AdapterEnvironment) -> WorkspaceProvider:
    """Return the provider; raises SettingsError without SKILLFLEET_WORKSPACE_DIRECTORY."""
    directory = DirectoryWorkspaceSettings.load(environment.variables).workspace_directory
    if directory is None or not directory.is_absolute():
        raise SettingsError("SKILLFLEET_WORKSPACE_DIRECTORY: must be an absolute path")
    return DirectoryWorkspaces(directory)
