"""The storage of workspaces in memory, for tests and scripts."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.workspace import FileInfo, FileStore, WorkspaceProvider, WorkspaceStorage
from skillfleet.workspaces.names import busy, check_collision, check_path


class MemoryFiles(FileStore):
    """A file store in a dict; one event loop."""

    def __init__(self, content: Mapping[str, bytes] | None = None) -> None:
        for path in content or {}:
            check_path(path)
        self.content = dict(content or {})
        """The content of each file, for a test to read."""

    async def list(self) -> list[FileInfo]:
        """See `FileStore.list`."""
        return [FileInfo(path, len(data)) for path, data in sorted(self.content.items())]

    async def stat(self, path: str) -> FileInfo | None:
        """See `FileStore.stat`."""
        data = await self.read(path)
        return None if data is None else FileInfo(path, len(data))

    async def read(self, path: str) -> bytes | None:
        """See `FileStore.read`."""
        check_path(path)
        data = self.content.get(path)
        if data is None and any(file.startswith(f"{path}/") for file in self.content):
            raise WorkspaceDenied(f"the path {path!r} is refused: it is a folder")
        return data

    async def write(self, path: str, data: bytes) -> None:
        """See `FileStore.write`."""
        check_path(path)
        if path not in self.content:
            check_collision(path, self.content)
        self.content[path] = bytes(data)

    async def delete(self, path: str) -> bool:
        """See `FileStore.delete`."""
        if await self.read(path) is None:
            return False
        del self.content[path]
        return True


class MemoryStorage(WorkspaceStorage):
    """The storage of one workspace in memory."""

    def __init__(self, content: Mapping[str, bytes] | None = None) -> None:
        self._files = MemoryFiles(content)
        self._state = MemoryFiles()
        self._holder: str | None = None

    @property
    def files(self) -> MemoryFiles:
        """See `WorkspaceStorage.files`."""
        return self._files

    @property
    def state(self) -> MemoryFiles:
        """See `WorkspaceStorage.state`."""
        return self._state

    @asynccontextmanager
    async def writer(self, holder: str) -> AsyncIterator[None]:
        """See `WorkspaceStorage.writer`."""
        if self._holder is not None:
            raise busy(self._holder)
        self._holder = holder
        try:
            yield
        finally:
            self._holder = None


class MemoryWorkspaces(WorkspaceProvider):
    """A provider of workspaces in memory, each of which begins with the same files."""

    def __init__(self, content: Mapping[str, bytes] | None = None) -> None:
        self._content = dict(content or {})
        self._storages: dict[str, MemoryStorage] = {}

    def storage(self, identifier: str) -> MemoryStorage:
        """See `WorkspaceProvider.storage`."""
        if identifier not in self._storages:
            self._storages[identifier] = MemoryStorage(self._content)
        return self._storages[identifier]
