"""Running code apart from the worker."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended. `truncated` says that output beyond the adapter's limit is missing."""

    stdout: str
    stderr: str = ""
    exit_code: int = 0
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.exit_code == 0

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return self.stdout + self.stderr


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A sandbox to create. No `egress` host means no network; `secrets` are names."""

    name: str
    image: str = "python:3.11-slim"
    memory_mib: int = 512
    cpus: float = 1
    workspace: str | None = None
    secrets: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class SandboxHandle(ABC):
    """A running sandbox.

    Concurrency: commands may run at once. Cancellation: cancelling the awaiting task kills the
    command and all its children before it propagates. A command that exits with another code
    than 0 is a result, not an error. After `stop` or `kill` every method but those two raises
    `SandboxUnavailable`.
    """

    name: str

    @abstractmethod
    async def exec(
        self, command: str, args: Sequence[str] = (), *, timeout: float | None = None
    ) -> ExecResult:
        """Run a program with its arguments, without a shell.

        `timeout` in seconds; raises `TimeoutError` after the command was killed.
        """

    @abstractmethod
    async def shell(self, script: str, *, timeout: float | None = None) -> ExecResult:
        """Run a script with the sandbox's shell; otherwise like `exec`."""

    @abstractmethod
    async def logs(self, tail: int = 100) -> str:
        """The last `tail` lines that the sandbox itself logged."""

    @abstractmethod
    async def stop(self) -> None:
        """End the sandbox in order; harmless when it has ended."""

    @abstractmethod
    async def kill(self) -> None:
        """End the sandbox at once; harmless when it has ended."""


class SandboxClient(ABC):
    """Creates and finds sandboxes.

    Concurrency: any number of calls at once, from one event loop. Cancellation: a cancelled
    `create` leaves no sandbox behind. Every method raises `SandboxUnavailable` when the service
    cannot be reached. Forbidden: a network that the spec's `egress` does not list.
    """

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        """Start a sandbox; the caller stops it. Raises `ValueError` for a name in use."""

    @abstractmethod
    async def get(self, name: str) -> SandboxHandle:
        """The running sandbox of that name; raises `LookupError`."""

    @abstractmethod
    async def list(self) -> tuple[str, ...]:
        """The names of the running sandboxes."""

    @abstractmethod
    async def remove(self, name: str) -> None:
        """End the sandbox and delete what it stored; harmless when there is none."""

    @abstractmethod
    async def run_python(self, code: str, *, image: str | None = None) -> ExecResult:
        """Run Python code in a sandbox of its own, which is removed afterwards."""

    @abstractmethod
    async def run_shell(self, script: str, *, image: str | None = None) -> ExecResult:
        """Run a shell script in a sandbox of its own, which is removed afterwards."""
