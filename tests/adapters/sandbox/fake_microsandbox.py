"""A stand-in of the Python package microsandbox 0.7: machines that are folders and processes.

It has the names, parameters, results and errors of the package's documentation that the adapter
uses; `test_microsandbox.py` compares them with the package where that is installed. There is no
isolation: only for the tests' own commands.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.adapters.sandbox.cluster import Pod

__version__ = "0.7.11"


class MicrosandboxError(Exception):
    """Base of all errors."""


class SandboxNotFoundError(MicrosandboxError):
    """There is no sandbox of that name."""


class ExecTimeoutError(MicrosandboxError):
    """A command took too long."""


class ExecFailedError(MicrosandboxError):
    """A program never started."""


class ImagePullFailedError(MicrosandboxError):
    """An image cannot be downloaded."""


class PathNotFoundError(MicrosandboxError):
    """There is no file at a path."""


class SecurityProfile(StrEnum):
    """Security inside of the machine."""

    DEFAULT = "default"
    RESTRICTED = "restricted"


@dataclass(frozen=True)
class NetworkPolicy:
    """A policy, by a name of the stand-in."""

    name: str

    @classmethod
    def none(cls) -> "NetworkPolicy":
        """Deny traffic in both directions."""
        return cls("none")


@dataclass(frozen=True)
class Network:
    """Network configuration."""

    policy: NetworkPolicy | None = None


machines: dict[str, "Sandbox"] = {}
runtime = {"installed": True}
page_size = {"most": 100}


def is_runtime_installed() -> bool:
    """Return whether a complete runtime is found."""
    return runtime["installed"]


class ExecOutput:
    """The end of a command."""

    def __init__(self, stdout: bytes, stderr: bytes, code: int) -> None:
        self.stdout_bytes, self.stderr_bytes, self.exit_code = stdout, stderr, code
        self.stderr_text = stderr.decode(errors="replace")


class SandboxFsOps:
    """Files of a machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _at(self, path: str) -> Path:
        assert path.startswith("/workspace/"), "absolute paths of the guest"
        return self._folder / path.removeprefix("/workspace/")

    async def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        self._at(path).write_bytes(data)

    async def read_stream(self, path: str) -> AsyncIterator[bytes]:
        """Return an iterator over a file."""
        if not self._at(path).is_file():
            raise PathNotFoundError(path)

        async def pieces() -> AsyncIterator[bytes]:
            with self._at(path).open("rb") as file:
                while piece := file.read(1 << 16):
                    yield piece

        return pieces()


class Sandbox:
    """A machine; also the handle that `get` and `list_with` return."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name
        self.options = options
        self._pod = Pod(name)
        self.fs = SandboxFsOps(self._pod.folder)

    @staticmethod
    async def create(name: str, **options: Any) -> "Sandbox":
        """Boot a machine."""
        if "no.such.registry" in options["image"]:
            raise ImagePullFailedError(f"image {options['image']} cannot be pulled")
        machines[name] = Sandbox(name, options)
        return machines[name]

    @staticmethod
    async def get(name: str) -> "Sandbox":
        """Return a handle."""
        if name not in machines:
            raise SandboxNotFoundError(name)
        return machines[name]

    @staticmethod
    async def list_with(
        *, cursor: str | None = None, limit: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Any:  # fmt: skip
        """Return a page of machines."""
        assert limit is not None
        assert 1 <= limit <= 100
        found = [
            each
            for _, each in sorted(machines.items())
            if (labels or {}).items() <= each.options["labels"].items()
        ]
        first = int(cursor or 0)
        last = first + min(limit, page_size["most"])

        class Page:
            sandboxes = found[first:last]
            next_cursor = str(last) if len(found) > last else None

        return Page()

    def config(self) -> dict[str, Any]:
        """Return the parsed configuration."""
        return {"name": self.name, "labels": dict(self.options["labels"])}

    async def exec(
        self, cmd: str, args: list[str] | None = None, *, cwd: str | None = None,
        timeout: float | None = None,
    ) -> ExecOutput:  # fmt: skip
        """Execute a command to its end."""
        if self.name not in machines:
            raise SandboxNotFoundError(self.name)
        if cwd == "/":
            assert (cmd, args) == ("mkdir", ["-p", "/workspace"])
            return ExecOutput(b"", b"", 0)
        try:
            process = await asyncio.create_subprocess_exec(
                cmd,
                *(args or ()),
                cwd=self._pod.folder,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                env=os.environ | self._pod.environment,
            )
        except OSError as error:
            raise ExecFailedError(str(error)) from error
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = await process.communicate()
        except TimeoutError as error:
            process.kill()
            raise ExecTimeoutError(f"{timeout} s") from error
        return ExecOutput(stdout, stderr, process.returncode or 0)

    async def destroy(self, *, force: bool = False) -> None:
        """Kill the machine and remove what is left of it."""
        assert force, "a running machine is only destroyed by force"
        if machines.pop(self.name, None) is None:
            raise SandboxNotFoundError(self.name)
        await asyncio.to_thread(self._pod.end)
