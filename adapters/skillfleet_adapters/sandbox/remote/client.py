"""The client of remote sandboxes: one attempt's sandboxes in another machine."""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from skillfleet.errors import (
    CapabilityUnavailableError,
)
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.sandbox import (
    DEFAULT_IMAGE,
    ExecResult,
    OnOutput,
    SandboxClient,
    SandboxHandle,
    SandboxSpec,
)
from skillfleet.ports.scope import RunScope
from skillfleet_adapters.sandbox.named import NamedSandboxes
from skillfleet_adapters.sandbox.remote.process import Connection, RemoteProcess

_FILE_BYTES: Final = 64 << 20
"""The largest file that `get` returns."""


@dataclass
class _Handle:
    spec: SandboxSpec
    process: RemoteProcess
    output_bytes: int


_handles: Final[HiddenState[_Handle]] = HiddenState()


class RemoteSandbox(SandboxHandle):
    """A sandbox in another machine."""

    @property
    def spec(self) -> SandboxSpec:
        """The description that it was made from."""
        return _handles.of(self).spec

    async def exec(
        self,
        cmd: str,
        args: Sequence[str] = (),
        *,
        timeout: float | None = None,
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """See `SandboxHandle.exec`."""
        state = _handles.of(self)
        limit = state.output_bytes
        return await state.process.execute([cmd, *args], timeout, stdin, limit, on_output)

    async def put(self, path: str, data: bytes) -> None:
        """See `SandboxHandle.put`."""
        await _handles.of(self).process.put(path, data)

    async def get(self, path: str) -> bytes:
        """See `SandboxHandle.get`."""
        return await _handles.of(self).process.get(path, _FILE_BYTES)

    async def stop(self) -> None:
        """See `SandboxHandle.stop`."""
        await _handles.of(self).process.end()

    async def kill(self) -> None:
        """See `SandboxHandle.kill`."""
        await _handles.of(self).process.end()

    async def logs(self, tail: int = 100) -> str:
        """See `SandboxHandle.logs`."""
        lines = list(_handles.of(self).process.log)
        return "\n".join(lines[-tail:] if tail > 0 else [])


class _AtHome(Connection):
    """A connection whose calls are awaited on the home loop, to which shared connections belong."""

    def __init__(self, connection: Connection, scope: RunScope) -> None:
        self._connection = connection
        self._scope = scope

    async def run(self, command: Sequence[str], seconds: float) -> bytes:
        return await self._scope.on_home_loop(self._connection.run(command, seconds))

    async def upload(self, name: str, data: bytes) -> None:
        await self._scope.on_home_loop(self._connection.upload(name, data))

    async def download(self, name: str, limit: int) -> bytes:
        return await self._scope.on_home_loop(self._connection.download(name, limit))

    async def end(self) -> None:
        await self._scope.on_home_loop(self._connection.end())


class Site(ABC):
    """The place where the sandboxes of a process are, shared by its clients."""

    output_bytes: int
    """The part of a command's output that is kept, for each stream."""

    @abstractmethod
    def check(self, spec: SandboxSpec) -> None:
        """Refuse what its sandboxes cannot provide, with CapabilityUnavailableError."""

    @abstractmethod
    async def connect(self, spec: SandboxSpec, labels: Mapping[str, str]) -> Connection:
        """Create a sandbox with these labels and wait for it; raises SandboxUnavailable.

        On the home loop. A sandbox that does not get ready is deleted again.
        """

    async def start(self, spec: SandboxSpec, scope: RunScope) -> RemoteSandbox:
        """Start a sandbox with its supervisor, for an attempt."""
        connection = await scope.on_home_loop(self.connect(spec, scope.resource_labels()))
        process = RemoteProcess(spec.name, _AtHome(connection, scope))
        try:
            await process.start()
        except BaseException:
            await asyncio.shield(process.end())
            raise
        handle = RemoteSandbox()
        _handles.attach(handle, _Handle(spec, process, self.output_bytes))
        return handle


@dataclass
class _Client:
    site: Site
    scope: RunScope
    named: NamedSandboxes[RemoteSandbox] = field(default_factory=NamedSandboxes)


_clients: Final[HiddenState[_Client]] = HiddenState()


class RemoteSandboxes(SandboxClient):
    """Makes sandboxes at a site."""

    @classmethod
    def open(cls, site: Site, scope: RunScope) -> Self:
        """Return the client of one attempt; its sandboxes end with the attempt."""
        client, state = cls(), _Client(site, scope)
        _clients.attach(client, state)
        scope.defer(state.named.close)
        return client

    async def create(self, spec: SandboxSpec) -> RemoteSandbox:
        """See `SandboxClient.create`."""
        state = _clients.of(self)
        state.site.check(spec)
        return await state.named.start(spec.name, lambda: state.site.start(spec, state.scope))

    async def get(self, name: str) -> RemoteSandbox:
        """See `SandboxClient.get`."""
        return _clients.of(self).named.get(name)

    async def list(self) -> Sequence[str]:
        """See `SandboxClient.list`."""
        return _clients.of(self).named.names()

    async def remove(self, name: str) -> None:
        """See `SandboxClient.remove`."""
        await _clients.of(self).named.remove(name)

    async def run_python(
        self,
        code: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """See `SandboxClient.run_python`."""
        return await self._once(["python3", "-I", "-c", code], image, timeout)

    async def run_shell(
        self,
        script: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """See `SandboxClient.run_shell`."""
        return await self._once(["sh", "-c", script], image, timeout)

    async def _once(self, command: Sequence[str], image: str, seconds: float | None) -> ExecResult:
        name = f"once-{uuid.uuid4().hex[:12]}"
        sandbox = await self.create(SandboxSpec(name, image))
        try:
            return await sandbox.exec(command[0], command[1:], timeout=seconds)
        finally:
            await asyncio.shield(self.remove(name))


def refuse(kind: str, spec: SandboxSpec, reasons: Mapping[str, str]) -> None:
    """Raise for the first field of `reasons` that a spec sets: a kind cannot provide it."""
    for name, reason in reasons.items():
        if getattr(spec, name):
            raise CapabilityUnavailableError(f"a sandbox of the kind {kind} {reason}")
