"""Sandboxes as virtual machines on the worker's machine, by the Python package microsandbox."""

import asyncio
import importlib.util
import logging
import math
import os
import platform
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from skillfleet.errors import SandboxRuntimeError, SandboxUnavailable
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease
from skillfleet.ports.sandbox import SandboxClient, SandboxProvider, SandboxSpec
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, RunScope
from skillfleet.ports.settings import AdapterSettings
from skillfleet_adapters.sandbox.provider import LocalSandboxSettings
from skillfleet_adapters.sandbox.remote.client import RemoteSandboxes, Site, refuse
from skillfleet_adapters.sandbox.remote.process import Connection

logger = logging.getLogger(__name__)

_PACKAGE: Final = "microsandbox"
_INSTALL: Final = 'pip install "microsandbox>=0.7.11,<0.8"'
_SERIES: Final = "0.7."
_FOLDER: Final = "/workspace"
_TRANSFER_SECONDS: Final = 120.0
_PAGE: Final = 100


class MicrosandboxSettings(AdapterSettings):
    """Settings of the sandbox kind `microsandbox`."""

    sandbox_pull_seconds: float = Field(default=300, gt=0)
    """Time that a virtual machine may take to get ready, with the download of its image."""


@dataclass(frozen=True)
class Hardware:
    """Files that show the machine's virtualisation."""

    kvm: Path = Path("/dev/kvm")
    cpu: Path = Path("/proc/cpuinfo")

    def problem(self) -> str | None:
        """Return why it cannot run virtual machines; None if it can."""
        if sys.platform != "linux":
            return None  # microsandbox itself finds out
        if not self.kvm.exists():
            return f"there is no {self.kvm}: no hardware virtualisation, or the module kvm is off"
        if not os.access(self.kvm, os.R_OK | os.W_OK):
            return f"this user may not use {self.kvm}: add it to the device's group"
        flags = self.cpu.read_text().split() if platform.machine() == "x86_64" else ["vmx"]
        if not {"vmx", "svm"} & set(flags):
            return "the processor shows no hardware virtualisation (vmx, svm) to this machine"
        return None


def is_installed() -> bool:
    """Return whether the package is there."""
    return importlib.util.find_spec(_PACKAGE) is not None


def load_package() -> Any:
    """Import microsandbox; raises SandboxUnavailable without a fitting one."""
    try:
        found = version(_PACKAGE)
        package = importlib.import_module(_PACKAGE)
    except (PackageNotFoundError, ImportError) as error:
        raise SandboxUnavailable(
            f"the package microsandbox cannot be imported ({error}): {_INSTALL}"
        ) from error
    if not found.startswith(_SERIES):
        raise SandboxUnavailable(f"microsandbox {found} is of another series: {_INSTALL}")
    return package


class _VirtualMachine(Connection):
    """One running virtual machine."""

    def __init__(self, package: Any, machine: Any) -> None:
        self._errors: type[Exception] = package.MicrosandboxError
        self._absent: type[Exception] = package.SandboxNotFoundError
        self._machine = machine

    async def run(self, command: Sequence[str], seconds: float) -> bytes:
        """See `Connection.run`."""
        try:
            done = await self._machine.exec(
                command[0], list(command[1:]), cwd=_FOLDER, timeout=seconds
            )
        except self._errors as error:
            raise SandboxRuntimeError(f"microsandbox: {error}") from error
        if done.exit_code != 0:
            raise SandboxRuntimeError(f"{command[0]} fails: {done.stderr_text[-300:]}")
        output: bytes = done.stdout_bytes
        return output

    async def upload(self, name: str, data: bytes) -> None:
        """See `Connection.upload`."""
        try:
            async with asyncio.timeout(_TRANSFER_SECONDS):
                await self._machine.fs.write(f"{_FOLDER}/{name}", data)
        except (self._errors, TimeoutError) as error:
            raise SandboxRuntimeError(f"microsandbox cannot write: {error!r}") from error

    async def download(self, name: str, limit: int) -> bytes:
        """See `Connection.download`."""
        content = bytearray()
        try:
            async with asyncio.timeout(_TRANSFER_SECONDS):
                async for piece in await self._machine.fs.read_stream(f"{_FOLDER}/{name}"):
                    content += piece
                    if len(content) > limit:
                        raise SandboxRuntimeError(f"{name} has more than {limit} bytes")
        except (self._errors, TimeoutError) as error:
            raise SandboxRuntimeError(f"microsandbox cannot read: {error!r}") from error
        return bytes(content)

    async def prepare(self) -> None:
        """Create the folder of commands."""
        await self._machine.exec("mkdir", ["-p", _FOLDER], cwd="/", timeout=_TRANSFER_SECONDS)

    async def end(self) -> None:
        """See `Connection.end`."""
        try:
            await self._machine.destroy(force=True)
        except self._absent:
            return
        except self._errors as error:
            raise SandboxRuntimeError(f"microsandbox cannot end it: {error}") from error


class VirtualMachines(Site):
    """The virtual machines of this machine."""

    def __init__(self, environment: AdapterEnvironment, hardware: Hardware) -> None:
        self.output_bytes = LocalSandboxSettings.load(environment.variables).sandbox_output_bytes
        self.fleet = environment.fleet
        self._seconds = MicrosandboxSettings.load(environment.variables).sandbox_pull_seconds
        self._hardware = hardware

    def package(self) -> Any:
        """Return the package; raises SandboxUnavailable where it cannot make machines."""
        problem = self._hardware.problem()
        if problem is not None:
            raise SandboxUnavailable(f"microsandbox: {problem}")
        package = load_package()
        if not package.is_runtime_installed():
            raise SandboxUnavailable("microsandbox: its runtime is incomplete: see `msb doctor`")
        return package

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what a machine cannot provide."""
        refuse(
            _PACKAGE,
            spec,
            {
                "egress": "has no network: leave egress empty",
                "secrets": "takes no secrets: leave secrets empty",
                "workspace": "has no files of a view: leave workspace empty, use put and get",
            },
        )

    async def connect(self, spec: SandboxSpec, labels: Mapping[str, str]) -> Connection:
        """Start a virtual machine without a network."""
        package = self.package()
        name = f"skillfleet-{uuid.uuid4().hex}"
        try:
            async with asyncio.timeout(self._seconds):
                machine = await package.Sandbox.create(
                    name,
                    image=spec.image,
                    memory=spec.memory_mib,
                    cpus=math.ceil(spec.cpus),
                    ephemeral=True,
                    labels={key: labels[key] for key in (FLEET_LABEL, RUN_LABEL, LEASE_LABEL)},
                    network=package.Network(policy=package.NetworkPolicy.none()),
                    security=package.SecurityProfile.RESTRICTED,
                )
        except (package.MicrosandboxError, TimeoutError) as error:
            await asyncio.shield(self._forget(package, name))
            raise SandboxUnavailable(
                f"microsandbox cannot start {spec.image}: {error or 'it takes too long'}"
            ) from error
        except BaseException:
            await asyncio.shield(self._forget(package, name))
            raise
        connection = _VirtualMachine(package, machine)
        try:
            await connection.prepare()
        except BaseException:
            await asyncio.shield(connection.end())
            raise
        return connection

    async def _forget(self, package: Any, name: str) -> None:
        """End a machine that may have been started."""
        try:
            await (await package.Sandbox.get(name)).destroy(force=True)
        except package.MicrosandboxError as error:
            logger.debug("microsandbox: nothing to end: %s", error)


class MicrosandboxProvider(SandboxProvider):
    """Opens clients of virtual machines and ends those of lost attempts."""

    def __init__(self, machines: VirtualMachines) -> None:
        self._machines = machines
        self._reported = False

    def open(self, scope: RunScope) -> SandboxClient:
        """Return the client of one attempt."""
        return RemoteSandboxes.open(self._machines, scope)

    async def report(self) -> str:
        """Return what the sandboxes are; raises SandboxUnavailable with what is missing."""
        await asyncio.to_thread(self._machines.package)
        return "microsandbox. Isolated: a virtual machine with its own kernel and no network"

    async def reap(self, holds_lease: HoldsLease) -> None:
        """End the machines of this fleet whose attempt no longer holds its lease."""
        try:
            package = await asyncio.to_thread(self._machines.package)
        except SandboxUnavailable as error:
            if not self._reported:
                logger.warning("sandboxes: %s", error)
            self._reported = True
            return
        try:
            for machine in await self._owned(package):
                labels = machine.config().get("labels") or {}
                run_id, lease = labels.get(RUN_LABEL, ""), labels.get(LEASE_LABEL, "")
                if not await holds_lease(run_id, lease):
                    logger.info("the sandbox of run %s is ended, as its attempt is", run_id)
                    await machine.destroy(force=True)
        except package.MicrosandboxError as error:
            logger.warning("sandboxes: microsandbox: %s", error)

    async def _owned(self, package: Any) -> list[Any]:
        """Return all machines of this fleet."""
        found: list[Any] = []
        cursor = None
        while True:
            page = await package.Sandbox.list_with(
                cursor=cursor, limit=_PAGE, labels={FLEET_LABEL: self._machines.fleet}
            )
            found += page.sandboxes
            cursor = page.next_cursor
            if cursor is None:
                return found


def create(environment: AdapterEnvironment) -> SandboxProvider:
    """Return the provider of sandboxes by microsandbox."""
    return MicrosandboxProvider(VirtualMachines(environment, Hardware()))
