"""The providers of local sandboxes: of one kind, or of the strongest that works."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import Field

from skillfleet.errors import SandboxUnavailable, SettingsError, SkillfleetError
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease
from skillfleet.ports.sandbox import SandboxClient, SandboxProvider, SandboxSpec
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, RunScope
from skillfleet.ports.settings import AdapterSettings
from skillfleet_adapters.sandbox.client import LocalSandboxes, Machine
from skillfleet_adapters.sandbox.egress.policy import EgressRules
from skillfleet_adapters.sandbox.kinds import KINDS, Bubblewrap, Interpreter, Kind, Landlock
from skillfleet_adapters.sandbox.records import SandboxRecords
from skillfleet_adapters.sandbox.warm import WarmSandboxes

logger = logging.getLogger(__name__)

_TRIAL: Final = SandboxSpec("trial")


class LocalSandboxSettings(AdapterSettings):
    """Settings of sandboxes on the worker's machine."""

    sandbox_directory: Path | None = None
    """Folder for the records and files of this machine's sandboxes, which only this user can
    write. Default: a folder of this user in the system's temporary one."""
    sandbox_output_bytes: int = Field(default=1 << 20, ge=1024)
    """The part of a command's output that is kept, for each of its two streams."""
    sandbox_warm: int = Field(default=1, ge=0, le=64)
    """Sandboxes that each process starts before they are asked for, after its first use of one."""
    sandbox_warm_seconds: float = Field(default=300.0, gt=0)
    """Time without a use after which these end."""
    sandbox_egress_ports: str = "80,443"
    """Ports that sandboxes may reach at the hosts of their egress, separated by commas."""
    sandbox_egress_networks: str = ""
    """Networks and addresses that these hosts may have although they are not public, separated by
    commas. Empty: none."""
    sandbox_egress_ca_file: Path | None = None
    """Certificate authorities (PEM) for hosts with a secret, beside those of the system."""
    sandbox_egress_bytes: int = Field(default=1 << 30, ge=1024)
    """Most bytes that a sandbox may send and receive."""
    sandbox_egress_connections: int = Field(default=32, ge=1)
    """Connections of a sandbox at once; further ones wait."""
    sandbox_egress_seconds: float = Field(default=600.0, gt=0)
    """How long one connection may take."""


def _egress_rules(settings: LocalSandboxSettings) -> EgressRules:
    """Return the rules in the settings; raises SettingsError."""
    try:
        return EgressRules.read(
            settings.sandbox_egress_ports,
            settings.sandbox_egress_networks,
            settings.sandbox_egress_ca_file,
            max_bytes=settings.sandbox_egress_bytes,
            max_connections=settings.sandbox_egress_connections,
            seconds=settings.sandbox_egress_seconds,
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"SKILLFLEET_SANDBOX_EGRESS_*: {error}") from error


class LocalMachine(Machine):
    """The kinds that a setting allows; the first that works is kept."""

    def __init__(
        self, kinds: Sequence[type[Kind]], settings: LocalSandboxSettings, fleet: str
    ) -> None:
        folder = settings.sandbox_directory or Path(
            tempfile.gettempdir(), f"skillfleet-sandboxes-{os.geteuid()}"
        )
        self.records = SandboxRecords(folder, fleet)
        self.output_bytes = settings.sandbox_output_bytes
        self.egress = _egress_rules(settings)
        self._kinds = tuple(kinds)
        self._fleet = fleet
        self._chosen: Kind | None = None
        self.warm = WarmSandboxes(
            partial(self.start_warm, fleet), settings.sandbox_warm, settings.sandbox_warm_seconds
        )

    async def kind(self) -> Kind:
        """Return the strongest kind that works, after a trial; log which and why."""
        if self._chosen is None:
            self._chosen = await self._choose()
        return self._chosen

    async def _choose(self) -> Kind:
        problems: list[str] = []
        interpreter = Interpreter.find()
        for made in self._kinds:
            kind = made(interpreter)
            problem = kind.problem() or await self._trial(kind)
            if problem is None:
                refused = f" ({'; '.join(problems)})" if problems else ""
                logger.info("sandboxes: %s%s. Isolated: %s", kind.name, refused, kind.description)
                if kind.owner is not None:
                    logger.info("sandboxes: the worker is root; their user is %s", kind.owner)
                return kind
            problems.append(f"{kind.name}: {problem}")
        raise SandboxUnavailable(f"no sandbox works on this machine: {'; '.join(problems)}")

    async def _trial(self, kind: Kind) -> str | None:
        """Execute a command in a sandbox; returns why that does not work."""
        labels = {FLEET_LABEL: self._fleet, RUN_LABEL: "", LEASE_LABEL: ""}
        try:
            sandbox = await self.start(kind, _TRIAL, labels)
            try:
                result = await sandbox.exec(kind.interpreter.path, ["-I", "-c", "pass"], timeout=20)
            finally:
                await sandbox.stop()
        except (SkillfleetError, OSError) as error:
            return str(error)
        return None if result.ok else result.output.strip()[-300:]


class LocalSandboxProvider(SandboxProvider):
    """Opens clients of this machine's sandboxes and ends those of lost attempts."""

    def __init__(self, kinds: Sequence[type[Kind]], environment: AdapterEnvironment) -> None:
        settings = LocalSandboxSettings.load(environment.variables)
        self._machine = LocalMachine(kinds, settings, environment.fleet)
        self._reported = False

    def open(self, scope: RunScope) -> SandboxClient:
        """Return the client of one attempt."""
        return LocalSandboxes.open(self._machine, scope)

    async def kind(self) -> Kind:
        """Return the kind that works on this machine; raises SandboxUnavailable."""
        return await self._machine.kind()

    @property
    def is_idle(self) -> bool:
        """True while no attempt has a sandbox and all warm ones are ready."""
        warm = self._machine.warm
        return len(self._machine.records.all()) == len(warm) == warm.size

    async def report(self) -> str:
        """Return the kind and what it isolates; raises SandboxUnavailable."""
        kind = await self.kind()
        return f"{kind.name}. Isolated: {kind.description}"

    async def reap(self, holds_lease: HoldsLease) -> None:
        """End the sandboxes of this machine whose attempt no longer holds its lease."""
        if not self._reported:
            self._reported = True
            try:
                await self.kind()
            except SandboxUnavailable as error:
                logger.warning("sandboxes: %s", error)
        records = self._machine.records
        records.open()
        for record in records.all():
            if record.run_id:
                used = await holds_lease(record.run_id, record.lease)
            else:
                # A trial or a warm one, maybe of another process of this machine: they end with it.
                used = records.begins(record) or records.runs(record)
            if used:
                continue
            if record.run_id:
                logger.info("the sandbox of run %s is ended, as its attempt is", record.run_id)
            else:
                logger.info("a sandbox without a run is deleted, as its process has ended")
            await asyncio.to_thread(records.end, record)
        await asyncio.to_thread(records.sweep)

    async def aclose(self) -> None:
        """End the sandboxes that no attempt has taken."""
        await self._machine.warm.aclose()


def create_local(environment: AdapterEnvironment) -> SandboxProvider:
    """Return the provider of the strongest kind that shares the machine's kernel."""
    return LocalSandboxProvider(KINDS, environment)


def create_bubblewrap(environment: AdapterEnvironment) -> SandboxProvider:
    """Return the provider of sandboxes by bubblewrap."""
    return LocalSandboxProvider((Bubblewrap,), environment)


def create_landlock(environment: AdapterEnvironment) -> SandboxProvider:
    """Return the provider of sandboxes by Landlock."""
    return LocalSandboxProvider((Landlock,), environment)
