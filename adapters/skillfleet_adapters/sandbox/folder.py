"""The files of a workspace's view as the folder of a sandbox.

The view's files are written into the sandbox when it starts. After each command the changed ones
are staged in the view. Both are done by programs inside the sandbox: a link or a device there
reaches nothing that a command could not reach, and only the contents of regular files leave it.
"""

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from skillfleet.errors import SandboxRuntimeError, WorkspaceDenied
from skillfleet.ports.sandbox import ExecResult, OnOutput
from skillfleet.ports.workspace import WorkspaceMode, WorkspaceView

CHANGED_BYTES: Final = 64 << 20
"""The most that the changed files of one command have, with their names."""
_UNCHANGED: Final = -1

Execute = Callable[[Sequence[str], bytes, OnOutput | None], Awaitable[ExecResult]]
"""Executes a request of the supervisor with this input; the output is not logged."""


def _fill() -> None:
    """Write files into the folder: the program of the sandbox, from its standard input."""
    import os  # noqa: PLC0415 - the function's source is a program of its own
    import sys  # noqa: PLC0415 - as above

    stream = sys.stdin.buffer
    while header := stream.readline():
        name, size = (int(part) for part in header.split())
        path = os.fsdecode(stream.read(name))
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # noqa: PTH103, PTH120 - as above
        with open(path, "wb") as file:  # noqa: PTH123 - as above
            file.write(stream.read(size))


def _collect() -> None:
    """Write what differs from the digests on standard input to standard output, as above."""
    import hashlib  # noqa: PLC0415 - as above
    import os  # noqa: PLC0415 - as above
    import stat  # noqa: PLC0415 - as above
    import sys  # noqa: PLC0415 - as above

    entries = sys.stdin.buffer.read().split(b"\0")[:-1]
    known = {entry[64:]: entry[:64] for entry in entries}
    stream = sys.stdout.buffer
    for place, _, names in os.walk(b"."):
        for name in names:
            path = os.path.join(place, name)[2:]  # noqa: PTH118 - names may be no text
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            with open(path, "rb") as file:  # noqa: PTH123 - as above
                data = file.read()
            same = hashlib.sha256(data).hexdigest().encode() == known.get(path)
            stream.write(b"%d %d\n" % (len(path), -1 if same else len(data)) + path)
            stream.write(b"" if same else data)
    stream.write(b"end\n")


def _program(function: Callable[[], None]) -> Sequence[str]:
    return ["python", f"{inspect.getsource(function)}\n{function.__name__}()\n"]


class ViewFolder:
    """The files of one view in one sandbox, with the digests that both had last."""

    def __init__(self, view: WorkspaceView, name: str, execute: Execute) -> None:
        self._view = view
        self._name = name
        self._execute = execute
        self._known: dict[str, str] = {}

    async def fill(self) -> None:
        """Write the view's files, with what it has staged, into the sandbox."""
        pieces = []
        for match in await self._view.list():
            data = await self._view.read(match.path)
            path = match.path.encode()
            pieces.append(b"%d %d\n%b%b" % (len(path), len(data), path, data))
            self._known[match.path] = hashlib.sha256(data).hexdigest()
        if pieces:
            result = await self._execute(_program(_fill), b"".join(pieces), None)
            self._check(result)

    async def collect(self) -> None:
        """Stage what commands have changed; a view that is read_only gets nothing.

        Raises WorkspaceDenied, after all else was staged, for files that the view refuses.
        """
        if self._view.grant.mode is WorkspaceMode.READ_ONLY:
            return
        changed, present = await self._read()
        refused = []
        for path in sorted(changed.keys() | (self._known.keys() - present)):
            try:
                await self._stage(path, changed.get(path))
            except WorkspaceDenied as error:
                refused.append(str(error))
        if refused:
            raise WorkspaceDenied(
                f"sandbox {self._name!r}: the view refuses {len(refused)} of the changed files"
                f" (temporary ones belong into $TMPDIR): {'; '.join(refused[:5])}"
            )

    async def _stage(self, path: str, data: bytes | None) -> None:
        if data is None:
            del self._known[path]
            await self._view.delete(path)
        else:
            self._known[path] = hashlib.sha256(data).hexdigest()
            await self._view.write(path, data)

    async def _read(self) -> tuple[Mapping[str, bytes], set[str]]:
        """Return the contents of changed files, and the paths of all."""
        output = bytearray()

        async def keep(stream: str, data: bytes) -> None:
            if stream == "stdout":
                output.extend(data)
                if len(output) > CHANGED_BYTES:
                    raise self._failed(f"the changed files have more than {CHANGED_BYTES} bytes")

        entries = (f"{digest}{path}\0".encode() for path, digest in self._known.items())
        self._check(await self._execute(_program(_collect), b"".join(entries), keep))
        try:
            return _parsed(bytes(output))
        except ValueError as error:
            raise self._failed(f"its list of files is invalid: {error}") from error

    def _check(self, result: ExecResult) -> None:
        if not result.ok:
            raise self._failed(result.stderr.strip()[-300:])

    def _failed(self, message: str) -> SandboxRuntimeError:
        return SandboxRuntimeError(
            f"sandbox {self._name!r}: the files of its view: {message}",
            operation="workspace",
            sandbox_name=self._name,
        )


def _parsed(output: bytes) -> tuple[Mapping[str, bytes], set[str]]:
    """Return the contents and paths in the output of `_collect`, which may be forged."""
    changed: dict[str, bytes] = {}
    present: set[str] = set()
    at = 0
    while not output.startswith(b"end\n", at):
        end = output.index(b"\n", at)
        length, size = (int(part) for part in output[at:end].split())
        begin, at = end + 1, end + 1 + length + max(size, 0)
        path = output[begin : begin + length].decode(errors="replace")
        if length <= 0 or at > len(output):
            raise ValueError("it ends early")
        present.add(path)
        if size != _UNCHANGED:
            changed[path] = output[begin + length : at]
    return changed, present
