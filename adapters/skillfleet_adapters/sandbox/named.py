"""The sandboxes of one attempt by name, whatever their kind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from skillfleet.errors import InvalidArgumentsError, SandboxRuntimeError
from skillfleet.ports.sandbox import SandboxHandle

SandboxT = TypeVar("SandboxT", bound=SandboxHandle)


class NamedSandboxes(Generic[SandboxT]):
    """Starts, finds and ends the sandboxes of an attempt. Belongs to the loop of its skill."""

    def __init__(self) -> None:
        self._sandboxes: dict[str, SandboxT] = {}
        self._starting: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self, name: str, start: Callable[[], Awaitable[SandboxT]]) -> SandboxT:
        """Start a sandbox; raises InvalidArgumentsError for a name that is in use."""
        if name in self._starting or name in self._sandboxes:
            raise InvalidArgumentsError(f"there is a sandbox called {name!r} already")
        self._starting.add(name)
        try:
            sandbox = await start()
        finally:
            self._starting.discard(name)
        if self._closed:
            await sandbox.stop()
            raise SandboxRuntimeError("the attempt has ended", operation="create")
        self._sandboxes[name] = sandbox
        return sandbox

    def get(self, name: str) -> SandboxT:
        """Return a sandbox; raises SandboxRuntimeError for an unknown name."""
        if name not in self._sandboxes:
            raise SandboxRuntimeError(
                f"this run has no sandbox {name!r}", operation="get", sandbox_name=name
            )
        return self._sandboxes[name]

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._sandboxes)

    async def remove(self, name: str) -> None:
        """End a sandbox; does nothing for an unknown name."""
        if name in self._sandboxes:
            await self._sandboxes[name].stop()
            self._sandboxes.pop(name, None)

    def end_later(self, name: str) -> None:
        """End a sandbox while the skill goes on; `close` waits for it."""
        sandbox = self._sandboxes.pop(name, None)
        if sandbox is not None:
            task = asyncio.ensure_future(sandbox.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all sandboxes at the end of the attempt."""
        self._closed = True
        for name in list(self._sandboxes):
            await self.remove(name)
        await asyncio.gather(*self._ending)
