"""Workspaces of sessions: a producer puts files in and takes them out."""

import builtins
import os
from collections.abc import Callable, Iterator

from skillfleet.errors import CapabilityUnavailableError
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.workspace import WORKSPACE, FileInfo, WorkspaceProvider
from skillfleet.workspaces.archive import Source
from skillfleet.workspaces.files import MOST_ARCHIVE_BYTES, MOST_ENTRIES, WorkspaceFiles
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.sync import Portal

__all__ = ["SessionWorkspace", "WorkspaceFiles", "Workspaces"]


class Workspaces:
    """The workspaces of a fleet, by the settings of its workers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._provider: WorkspaceProvider | None = None

    def files(self, identifier: str) -> WorkspaceFiles:
        """Return the files of a workspace.

        Raises CapabilityUnavailableError without SKILLFLEET_WORKSPACE, and SettingsError.
        """
        if self._provider is None:
            self._provider = self._load()
        return WorkspaceFiles(self._provider.storage(identifier))

    async def close(self) -> None:
        """Close what the workspaces share."""
        provider, self._provider = self._provider, None
        if provider is not None:
            await provider.aclose()

    def _load(self) -> WorkspaceProvider:
        settings = self._ledger.settings
        environment = AdapterEnvironment(
            fleet=settings.namespace,
            variables=os.environ,  # noqa: TID251 - adapters read their settings there
            services={Settings: settings, Ledger: self._ledger},
        )
        provider = load(WORKSPACE, settings.workspace, environment) if settings.workspace else None
        if provider is None:
            raise CapabilityUnavailableError(
                "this process has no workspaces: give it SKILLFLEET_WORKSPACE and the settings of"
                " that adapter, as the workers have them"
            )
        return provider


class SessionWorkspace:
    """The files of a session's workspace; see `WorkspaceFiles` for arguments and errors."""

    def __init__(self, bound: Callable[[], tuple[Portal, WorkspaceFiles]]) -> None:
        self._bound = bound

    def put(self, path: str, data: bytes) -> None:
        """Create or replace a file as a whole."""
        portal, files = self._bound()
        portal.call(files.put(path, data))

    def get(self, path: str) -> bytes:
        """Return the content of a file; raises `FileNotFoundError` where there is none."""
        portal, files = self._bound()
        return portal.call(files.get(path))

    def list(self) -> builtins.list[FileInfo]:
        """Return all files by path."""
        portal, files = self._bound()
        return portal.call(files.list())

    def delete(self, path: str) -> bool:
        """Delete a file; False when there is none."""
        portal, files = self._bound()
        return portal.call(files.delete(path))

    def upload_tar(
        self,
        source: Source,
        *,
        max_files: int = MOST_ENTRIES,
        max_bytes: int = MOST_ARCHIVE_BYTES,
    ) -> builtins.list[str]:
        """Put all files of a tar archive, or none; returns the paths that changed."""
        portal, files = self._bound()
        return portal.call(files.upload_tar(source, max_files=max_files, max_bytes=max_bytes))

    def download_tar(self) -> Iterator[bytes]:
        """Yield a tar archive of all files in pieces."""
        portal, files = self._bound()
        return portal.iterate(files.download_tar())
