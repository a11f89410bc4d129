"""The client of local sandboxes: one attempt's sandboxes on the worker's machine."""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from skillfleet.errors import (
    CapabilityUnavailableError,
    InvalidArgumentsError,
    SandboxRuntimeError,
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
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, RunScope
from skillfleet_adapters.sandbox.egress.policy import EgressPolicy, EgressRules
from skillfleet_adapters.sandbox.folder import ViewFolder
from skillfleet_adapters.sandbox.kinds import Kind
from skillfleet_adapters.sandbox.named import NamedSandboxes
from skillfleet_adapters.sandbox.process import SandboxProcess
from skillfleet_adapters.sandbox.records import SandboxRecord, SandboxRecords
from skillfleet_adapters.sandbox.warm import WarmSandboxes

_FILE_BYTES: Final = 64 << 20
"""The largest file that `get` returns."""
_HELPER_BYTES: Final = 1024
"""The part of the output of own programs that is kept, for messages."""
_SMALLEST_MIB: Final = 64
_WARM: Final = SandboxSpec("warm")
"""The spec of sandboxes that are started before they are asked for."""
_PUT: Final = 'mkdir -p -- "$(dirname -- "$1")" && cat > "$1"'
_GET: Final = 'cat < "$1"'


@dataclass
class _Handle:
    spec: SandboxSpec
    process: SandboxProcess
    output_bytes: int
    folder: ViewFolder | None = None


_handles: Final[HiddenState[_Handle]] = HiddenState()


class LocalSandbox(SandboxHandle):
    """A sandbox on the worker's machine."""

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
        return await self.execute(["exec", cmd, *args], timeout, stdin, on_output)

    async def execute(
        self,
        command: Sequence[str],
        seconds: float | None,
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """Execute a request of the supervisor; see `SandboxProcess.execute`."""
        state = _handles.of(self)
        limit = state.output_bytes
        result = await state.process.execute(command, seconds, stdin, limit, on_output)
        if state.folder is not None:
            await state.folder.collect()
        return result

    async def put(self, path: str, data: bytes) -> None:
        """See `SandboxHandle.put`; the sandbox's own user writes the file, isolated as always."""
        result = await self.exec("sh", ["-c", _PUT, "sh", path], stdin=data)
        if not result.ok:
            raise self._failed("put", result.stderr)

    async def get(self, path: str) -> bytes:
        """See `SandboxHandle.get`."""
        content = bytearray()

        async def keep(stream: str, data: bytes) -> None:
            if stream == "stdout":
                content.extend(data)
                if len(content) > _FILE_BYTES:
                    raise self._failed("get", f"{path} has more than {_FILE_BYTES} bytes")

        state = _handles.of(self)
        command = ["exec", "sh", "-c", _GET, "sh", path]
        result = await state.process.execute(command, None, b"", _HELPER_BYTES, keep, logged=False)
        if not result.ok:
            raise self._failed("get", result.stderr)
        return bytes(content)

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

    def _failed(self, operation: str, message: str) -> SandboxRuntimeError:
        name = self.spec.name
        return SandboxRuntimeError(
            f"sandbox {name!r}: {message.strip()}", operation=operation, sandbox_name=name
        )


class Machine(ABC):
    """The part that the clients of a process share."""

    records: SandboxRecords
    output_bytes: int
    egress: EgressRules
    warm: WarmSandboxes

    @abstractmethod
    async def kind(self) -> Kind:
        """Return the kind of its sandboxes; raises SandboxUnavailable."""

    async def start(
        self,
        kind: Kind,
        spec: SandboxSpec,
        labels: Mapping[str, str],
        egress: EgressPolicy | None = None,
    ) -> LocalSandbox:
        """Start a sandbox for the attempt with these labels."""
        process = await self._started(kind, spec, labels, egress)
        try:
            files = await _filled(spec, process)
        except BaseException:
            await asyncio.shield(process.end())
            raise
        return self._sandbox(spec, process, files)

    def take(self, kind: Kind, spec: SandboxSpec, labels: Mapping[str, str]) -> LocalSandbox | None:
        """Give a warm sandbox to the attempt with these labels; None without one that is ready."""

        def fits(process: SandboxProcess) -> bool:
            return process.launch is not None and kind.fits(process.launch)

        process = self.warm.take(fits)
        if process is None:
            return None
        process.assign(spec.name, labels[RUN_LABEL], labels[LEASE_LABEL])
        return self._sandbox(spec, process)

    async def start_warm(self, fleet: str) -> SandboxProcess:
        """Start a sandbox that belongs to no attempt, only to this process."""
        labels = {FLEET_LABEL: fleet, RUN_LABEL: "", LEASE_LABEL: ""}
        return await self._started(await self.kind(), _WARM, labels, None)

    def _sandbox(
        self, spec: SandboxSpec, process: SandboxProcess, files: ViewFolder | None = None
    ) -> LocalSandbox:
        handle = LocalSandbox()
        _handles.attach(handle, _Handle(spec, process, self.output_bytes, files))
        return handle

    async def _started(
        self,
        kind: Kind,
        spec: SandboxSpec,
        labels: Mapping[str, str],
        egress: EgressPolicy | None,
    ) -> SandboxProcess:
        record = SandboxRecord(
            uuid.uuid4().hex,
            labels[FLEET_LABEL],
            labels[RUN_LABEL],
            labels[LEASE_LABEL],
            graceful=kind.graceful,
        )
        self.records.open()
        self.records.write(record)
        process = SandboxProcess(spec.name, self.records, record)
        folder = self.records.folder(record.id)
        try:
            await process.start(kind.launch(spec, folder), kind.owner, egress)
        except BaseException:
            await asyncio.shield(process.end())
            raise
        return process


async def _filled(spec: SandboxSpec, process: SandboxProcess) -> ViewFolder | None:
    """Return the folder of the view that a spec names, filled; None without one."""
    if spec.workspace is None:
        return None

    async def execute(
        command: Sequence[str], stdin: bytes, on_output: OnOutput | None
    ) -> ExecResult:
        return await process.execute(command, None, stdin, _HELPER_BYTES, on_output, logged=False)

    files = ViewFolder(spec.workspace, spec.name, execute)
    await files.fill()
    return files


@dataclass
class _Client:
    machine: Machine
    scope: RunScope
    named: NamedSandboxes[LocalSandbox] = field(default_factory=NamedSandboxes)


_clients: Final[HiddenState[_Client]] = HiddenState()


class LocalSandboxes(SandboxClient):
    """Makes sandboxes on the worker's machine."""

    @classmethod
    def open(cls, machine: Machine, scope: RunScope) -> Self:
        """Return the client of one attempt; its sandboxes end with the attempt."""
        client, state = cls(), _Client(machine, scope)
        _clients.attach(client, state)
        scope.defer(state.named.close)
        return client

    async def create(self, spec: SandboxSpec) -> LocalSandbox:
        """See `SandboxClient.create`."""
        state = _clients.of(self)
        _check(spec)
        egress = None
        if spec.egress or spec.secrets:
            egress = EgressPolicy.of(spec, state.machine.egress, state.scope.secret)
        return await state.named.start(spec.name, lambda: _obtain(state, spec, egress))

    async def get(self, name: str) -> LocalSandbox:
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
        return await self._once(["python", code], image, timeout)

    async def run_shell(
        self,
        script: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """See `SandboxClient.run_shell`."""
        return await self._once(["exec", "sh", "-c", script], image, timeout)

    async def _once(self, command: Sequence[str], image: str, seconds: float | None) -> ExecResult:
        name = f"once-{uuid.uuid4().hex[:12]}"
        sandbox = await self.create(SandboxSpec(name, image))
        try:
            return await sandbox.execute(command, seconds)
        finally:
            _clients.of(self).named.end_later(name)


async def _obtain(state: _Client, spec: SandboxSpec, egress: EgressPolicy | None) -> LocalSandbox:
    """Return a warm sandbox where the spec asks for no more than those have, else a new one."""
    machine, labels = state.machine, state.scope.resource_labels()
    kind = await machine.kind()
    if replace(spec, name=_WARM.name, labels=_WARM.labels) != _WARM:
        return await machine.start(kind, spec, labels, egress)
    sandbox = machine.take(kind, spec, labels) or await machine.start(kind, spec, labels)
    try:
        await state.scope.on_home_loop(machine.warm.refill())
    except BaseException:
        await asyncio.shield(sandbox.stop())
        raise
    return sandbox


def _check(spec: SandboxSpec) -> None:
    """Refuse what sandboxes of this machine cannot provide."""
    if spec.image != DEFAULT_IMAGE:
        raise CapabilityUnavailableError(
            f"a sandbox on the worker's machine has its system, not the image {spec.image!r}"
        )
    if spec.memory_mib < _SMALLEST_MIB or spec.cpus <= 0:
        raise InvalidArgumentsError(f"a sandbox needs {_SMALLEST_MIB} MiB and more than 0 cpus")
