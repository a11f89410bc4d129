"""The port for sandboxes: isolated places to execute code."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skillfleet.errors import SandboxRuntimeError
from skillfleet.ports.loading import Port
from skillfleet.ports.provider import ReapingProvider
from skillfleet.ports.workspace import WorkspaceView

DEFAULT_IMAGE: Final = "python:3.11-slim"
"""The image of a spec that names none: a system with Python and a shell."""

OnOutput = Callable[[str, bytes], Awaitable[None]]
"""Gets each piece of output as it is written: the stream (`stdout` or `stderr`) and the bytes."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The end of a command. `truncated`: it wrote more than the limit, the rest is dropped."""

    stdout: str
    stderr: str = ""
    exit_code: int = 0
    """As a shell has it: 128 + the signal for a command that a signal ended."""
    truncated: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files that the command left, where it was asked for them."""

    @property
    def output(self) -> str:
        """Standard output, followed by standard error."""
        return self.stdout + self.stderr

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.exit_code == 0


@dataclass(frozen=True, slots=True)
class HostSecret:
    """A secret of the skill for one host of a sandbox, whose egress proxy adds it to requests.

    The sandbox does not get it: its code requests `http://<host>/...`, and the proxy sends the
    request over TLS, as `Authorization: Bearer <value>` unless the fields say otherwise.
    """

    secret: str
    """The name of a secret that the skill has declared."""
    host: str
    header: str = "Authorization"
    prefix: str = "Bearer "
    """The text before the value."""
    user: str | None = None
    """A user name: the secret is its password, and the header has Basic credentials."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The description of a sandbox; what an adapter cannot provide it refuses."""

    name: str
    image: str = DEFAULT_IMAGE
    memory_mib: int = 512
    """The address space of each process, and the size of each writable file system."""
    cpus: float = 1
    workspace: WorkspaceView | None = None
    """The view whose files are in its folder; None for an empty folder.

    After each command and `put`, the changed and deleted files are staged in the view, or applied
    in a mode without overlay; with `read_only` they stay in the sandbox. Links and devices are no
    files. Files that the view refuses raise `WorkspaceDenied`, after the others were staged.
    """
    secrets: tuple[HostSecret, ...] = ()
    """The secrets that are added to requests for some of the hosts in `egress`."""
    egress: tuple[str, ...] = ()
    """The hosts that it may reach, `*.name` for all below a name; none by default."""
    labels: Mapping[str, str] = field(default_factory=dict)


class SandboxHandle(ABC):
    """A running sandbox.

    Commands of one sandbox run one after the other, share its files, and leave no process behind:
    what a command started in the background ends with it.
    Cancellation: a cancelled call ends the command with all that it started.
    """

    @property
    @abstractmethod
    def spec(self) -> SandboxSpec:
        """The description that it was made from."""

    @abstractmethod
    async def exec(
        self,
        cmd: str,
        args: Sequence[str] = (),
        *,
        timeout: float | None = None,
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """Execute a command and return its output.

        Raises SandboxRuntimeError when `timeout` seconds have passed, after the command and all
        that it started were ended, and when the sandbox has ended.
        """

    async def shell(
        self,
        script: str,
        *,
        timeout: float | None = None,
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """Execute a script of the shell `sh`; see `exec`."""
        return await self.exec(
            "sh", ["-c", script], timeout=timeout, stdin=stdin, on_output=on_output
        )

    @abstractmethod
    async def put(self, path: str, data: bytes) -> None:
        """Write a file, relative to the sandbox's folder; raises SandboxRuntimeError."""

    @abstractmethod
    async def get(self, path: str) -> bytes:
        """Return the content of a file; raises SandboxRuntimeError."""

    @abstractmethod
    async def stop(self) -> None:
        """End the sandbox with its files; does nothing for one that has ended."""

    @abstractmethod
    async def kill(self) -> None:
        """End the sandbox at once, also during a command, which then raises."""

    @abstractmethod
    async def logs(self, tail: int = 100) -> str:
        """Return the last lines that its commands have written."""


class SandboxClient(ABC):
    """Makes sandboxes for one attempt and ends them with it.

    Concurrency: any number of calls at once, from the event loop of the attempt.
    Forbidden: executing code without isolation; one that cannot isolate raises SandboxUnavailable.
    """

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        """Start a sandbox.

        Raises InvalidArgumentsError for a name that is in use, CapabilityUnavailableError for a
        spec that this kind cannot provide, and SandboxUnavailable.
        """

    @abstractmethod
    async def get(self, name: str) -> SandboxHandle:
        """Return a sandbox of this attempt by its name; raises SandboxRuntimeError."""

    @abstractmethod
    async def list(self) -> Sequence[str]:
        """Return the names of this attempt's sandboxes."""

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Stop a sandbox; does nothing for an unknown name."""

    @abstractmethod
    async def run_python(
        self,
        code: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """Execute Python code in a sandbox of its own, which is then removed."""

    @abstractmethod
    async def run_shell(
        self,
        script: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """Execute a shell script in a sandbox of its own, which is then removed."""


class SandboxProvider(ReapingProvider[SandboxClient]):
    """Opens the sandbox client of each attempt."""

    async def report(self) -> str:
        """Return in a line, for people, which sandboxes it makes and what they isolate.

        On the home loop. Raises SandboxUnavailable, with the reason, where it can make none.
        """
        return type(self).__name__


SANDBOX: Final[Port[SandboxProvider]] = Port("sandbox", SandboxProvider, "SKILLFLEET_SANDBOX")

__all__ = [
    "DEFAULT_IMAGE",
    "SANDBOX",
    "ExecResult",
    "HostSecret",
    "OnOutput",
    "SandboxClient",
    "SandboxHandle",
    "SandboxProvider",
    "SandboxRuntimeError",
    "SandboxSpec",
]
