"""The kinds of local sandboxes: the command line that isolates, and what it cannot isolate."""

import ctypes
import math
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final

from skillfleet.errors import SandboxUnavailable
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet_adapters.sandbox import seccomp
from skillfleet_adapters.sandbox.egress.inside import CERTIFICATES, Inside, of_network, of_socket
from skillfleet_adapters.sandbox.process import CONTROL, Launch

_MIB: Final = 1 << 20
_ABI_WITH_SCOPES: Final = 6
_LANDLOCK_CREATE: Final = 444
_SYSTEM: Final = Path("/usr")
_USER_PROCESSES: Final = 64
"""The processes of one sandbox."""
_OTHER_PROCESSES: Final = 16
"""How many more or fewer other processes its user may have than when it was started."""
_OPEN_FILES: Final = 256
_UNPRIVILEGED: Final = 65534
_NO_BUBBLEWRAP: Final = "the program bwrap (bubblewrap) is not installed"


@dataclass(frozen=True)
class Interpreter:
    """The Python of a sandbox, and the folder it needs besides /usr."""

    path: str
    prefix: str | None = None

    @classmethod
    def find(cls) -> "Interpreter":
        """Return the worker's own where it is part of the system, else that of the system."""
        prefix = Path(sys.base_prefix)
        own = prefix / "bin" / f"python3.{sys.version_info.minor}"
        if prefix.is_relative_to(_SYSTEM) and own.exists():
            return cls(str(own))
        if Path("/usr/bin/python3").exists():
            return cls("/usr/bin/python3")
        return cls(str(own), str(prefix))


class Kind(ABC):
    """One way to isolate processes on this machine."""

    name: ClassVar[str]
    description: ClassVar[str]
    """The parts that it isolates, and those that it does not."""
    graceful: ClassVar[bool]
    """True where SIGTERM, rather than SIGKILL, ends the supervisor with all below it."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter

    @property
    def owner(self) -> int | None:
        """The user of sandboxes: another for a worker that is root, whom limits do not bind."""
        return _UNPRIVILEGED if os.geteuid() == 0 else None

    def problem(self) -> str | None:
        """Return why it cannot work here, as far as that can be seen without a try."""
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        return None if children.exists() else "the kernel does not list the children of a process"

    @abstractmethod
    def launch(self, spec: SandboxSpec, folder: Path) -> Launch:
        """Return the command line of a sandbox; `folder` is created where it needs one."""

    def fits(self, launch: Launch) -> bool:
        """Return whether a sandbox that was started before is as one that is started now."""
        del launch
        return True

    def _limits(self, spec: SandboxSpec, processes: int) -> Mapping[str, int]:
        return {
            "RLIMIT_AS": spec.memory_mib * _MIB,
            "RLIMIT_FSIZE": spec.memory_mib * _MIB,
            "RLIMIT_NPROC": processes,
            "RLIMIT_NOFILE": _OPEN_FILES,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }

    def _supervisor(self, config: Mapping[str, Any]) -> list[str]:
        program = f"{self._guest}\n\nmain({dict(config)!r})\n"
        return [self.interpreter.path, "-I", "-c", program, CONTROL]

    @cached_property
    def _guest(self) -> str:
        return files("skillfleet_adapters.sandbox").joinpath("guest.py").read_text()


class Bubblewrap(Kind):
    """Own user, process, network and file-system namespaces, by the program bwrap."""

    name = "bubblewrap"
    graceful = False
    description = (
        "own files, processes, users and network (none); memory is limited by process, and the"
        " kernel is shared"
    )

    def problem(self) -> str | None:
        """Return that the program is missing."""
        return super().problem() if shutil.which("bwrap") else _NO_BUBBLEWRAP

    def launch(self, spec: SandboxSpec, folder: Path) -> Launch:
        """Return bwrap around the supervisor; nothing of the machine but /usr is visible."""
        del folder
        size = str(spec.memory_mib * _MIB)
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxUnavailable(_NO_BUBBLEWRAP)
        command = [program, "--unshare-all", "--unshare-user", "--disable-userns"]
        command += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
        # Else the first process is bwrap itself: without filter and limits, its memory writable.
        command += ["--as-pid-1", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
        for link in ("bin", "lib", "lib64", "sbin"):
            command += ["--symlink", f"usr/{link}", f"/{link}"]
        for path in ("/etc/ld.so.cache", "/etc/alternatives"):
            command += ["--ro-bind-try", path, path]
        if self.interpreter.prefix is not None:
            command += ["--ro-bind", self.interpreter.prefix, self.interpreter.prefix]
        command += ["--proc", "/proc", "--dev", "/dev"]
        inside = Inside()
        if spec.egress:
            inside = of_network("/run/egress.sock")
            command += ["--size", str(_MIB), "--tmpfs", "/run"]
            for path in CERTIFICATES:
                command += ["--ro-bind-try", path, path]
        for writable in ("/dev/shm", "/tmp", "/workspace"):  # noqa: S108 - inside the sandbox
            command += ["--size", size, "--tmpfs", writable]
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/workspace", "--"]
        config = {
            "folder": "/workspace",
            "environment": {**_environment("/workspace", "/tmp"), **inside.variables},  # noqa: S108
            "listen": list(inside.listen),
            "limits": self._limits(spec, _USER_PROCESSES),
            "cpus": math.ceil(spec.cpus),
            "landlock": None,
            "guarded": False,
            "seccomp": seccomp.program(namespaces=True, egress=bool(spec.egress)).hex(),
        }
        return Launch([*command, *self._supervisor(config)])


class Landlock(Kind):
    """Landlock and a filter of system calls: needs no privileges and no namespaces."""

    name = "landlock"
    graceful = True
    description = (
        "files, network (none) and signals; it has no own processes, users or size-limited file"
        " system: it sees the names and attributes of files outside, shares the limit of processes"
        " with its user, and its files fill the disk of the worker; with egress it can, before"
        " Linux 7.1, connect to other Unix sockets of its user"
    )

    def problem(self) -> str | None:
        """Return that the kernel is too old or refuses."""
        version = _landlock_version()
        if version <= 0:
            return "the kernel has no Landlock, or this container refuses its calls"
        if version < _ABI_WITH_SCOPES:
            return f"Landlock has version {version} here, without scopes of signals (Linux 6.12)"
        return super().problem()

    def launch(self, spec: SandboxSpec, folder: Path) -> Launch:
        """Return the supervisor, which confines each command; create the sandbox's folder."""
        workspace, temporary = str(folder / "workspace"), str(folder / "tmp")
        for path in (folder, workspace, temporary):
            Path(path).mkdir(mode=0o700)
            if self.owner is not None:
                os.chown(path, self.owner, self.owner)
        read = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"]
        if self.interpreter.prefix is not None:
            read.append(self.interpreter.prefix)
        processes = _processes_of(self.owner) + _USER_PROCESSES
        inside = Inside()
        if spec.egress:
            inside = of_socket(str(folder / "egress.sock"))
            read += CERTIFICATES
        config = {
            "folder": workspace,
            "environment": {**_environment(workspace, temporary), **inside.variables},
            "listen": list(inside.listen),
            "limits": self._limits(spec, processes),
            "cpus": math.ceil(spec.cpus),
            "landlock": {
                "read": read,
                "device": ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"],
                "write": [workspace, temporary],
                "connect": [str(folder)] if spec.egress else [],
            },
            "guarded": True,
            "seccomp": seccomp.program(namespaces=False, egress=bool(spec.egress)).hex(),
        }
        return Launch(self._supervisor(config), processes)

    def fits(self, launch: Launch) -> bool:
        """Return whether the user has about as many processes as at its start."""
        processes = _processes_of(self.owner) + _USER_PROCESSES
        return abs(processes - launch.processes) <= _OTHER_PROCESSES


KINDS: Final[Sequence[type[Kind]]] = (Bubblewrap, Landlock)
"""From the strongest to the weakest."""


def _environment(home: str, temporary: str) -> Mapping[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _landlock_version() -> int:
    return int(ctypes.CDLL(None).syscall(_LANDLOCK_CREATE, None, 0, 1))


def _processes_of(user: int | None) -> int:
    """Return how many processes and threads a user has: the limit counts those of all sandboxes."""
    wanted, found = os.geteuid() if user is None else user, 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == wanted:
                found += len(list((process / "task").iterdir()))
        except OSError:
            continue
    return found
