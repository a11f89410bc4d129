"""The process of one remote sandbox, seen from the worker: start, commands, files, end."""

import asyncio
import base64
import contextlib
import json
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

from skillfleet.errors import InvalidArgumentsError, SandboxRuntimeError, SandboxUnavailable
from skillfleet.ports.sandbox import ExecResult, OnOutput

T = TypeVar("T")

REPLY_BYTES: Final = 4 << 20
"""The longest reply of the supervisor; one that is longer comes from sandboxed code."""
FOLDER: Final = ".skillfleet"
"""The folder of transferred files, in the sandbox's own."""
_COMMAND_BYTES: Final = 64 * 1024
"""The largest command with its arguments: the kernel limits one argument to twice as much."""
_POLL_SECONDS: Final = 10.0
_CALL_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 10.0
_LOG_LINES: Final = 2000
_STREAMS: Final = ("stdout", "stderr")
_GET: Final = 'head -c "$3" < "$1" > "$2"'
_PUT: Final = 'mkdir -p -- "$(dirname -- "$1")" && cat > "$1"'


class Connection(ABC):
    """The calls that a sandbox's runtime offers; each raises SandboxRuntimeError."""

    @abstractmethod
    async def run(self, command: Sequence[str], seconds: float) -> bytes:
        """Execute a short command in the sandbox's folder to its end; return standard output.

        May be repeated after a lost reply: the supervisor's requests have the same effect twice.
        """

    @abstractmethod
    async def upload(self, name: str, data: bytes) -> None:
        """Write a file of the sandbox's folder."""

    @abstractmethod
    async def download(self, name: str, limit: int) -> bytes:
        """Return a file of the sandbox's folder, at most `limit` bytes."""

    @abstractmethod
    async def end(self) -> None:
        """End the sandbox with its processes and files; does nothing the second time."""


@dataclass
class _Output:
    limit: int
    kept: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    truncated: bool = False

    def add(self, stream: int, data: bytes) -> None:
        kept = self.kept[stream]
        room = self.limit - len(kept)
        self.truncated |= len(data) > room
        kept += data[:room]

    def texts(self) -> list[str]:
        return [kept.decode(errors="replace") for kept in self.kept]


@cache
def _guest() -> str:
    return files("skillfleet_adapters.sandbox.remote").joinpath("guest.py").read_text()


class RemoteProcess:
    """The supervisor of a remote sandbox. One command at a time.

    All that comes from the sandbox may be forged by its code, and is checked.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection
        self._id = uuid.uuid4().hex
        self._lock = asyncio.Lock()
        self._ended = asyncio.Event()
        self._stale: list[str] = []
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        """The last lines that commands wrote."""

    async def start(self) -> None:
        """Start the supervisor; raises SandboxUnavailable."""
        try:
            await self._connection.run([*self._program("serve"), self._id], _CALL_SECONDS)
        except SandboxRuntimeError as error:
            raise SandboxUnavailable(
                f"the supervisor does not start (the image needs python3): {error}"
            ) from error

    async def execute(
        self,
        command: Sequence[str],
        seconds: float | None,
        stdin: bytes,
        limit: int,
        on_output: OnOutput | None,
        *,
        logged: bool = True,
    ) -> ExecResult:
        """Execute one command; see `SandboxHandle.exec`."""
        size = len(json.dumps(list(command)))
        if size > _COMMAND_BYTES or any("\0" in part for part in command):
            raise InvalidArgumentsError(
                f"a command may have {_COMMAND_BYTES} bytes and no zero bytes: put the code into a"
                " file of the sandbox"
            )
        output = _Output(limit)
        async with self._lock:
            try:
                async with asyncio.timeout(seconds):
                    status = await self._run(command, stdin, output, on_output)
            except TimeoutError as error:
                raise self._failed(
                    f"the command took longer than {seconds} s and was ended", seconds
                ) from error
            finally:
                for text in output.texts() if logged else ():
                    self.log.extend(text.splitlines())
        stdout, stderr = output.texts()
        code = status if status >= 0 else 128 - status
        return ExecResult(stdout, stderr, code, output.truncated)

    async def put(self, path: str, data: bytes) -> None:
        """Write a file; the sandbox's own user does, so that its links mislead only itself."""
        result = await self.execute(["sh", "-c", _PUT, "sh", path], None, data, 1024, None)
        if not result.ok:
            raise self._failed(result.stderr.strip())

    async def get(self, path: str, limit: int) -> bytes:
        """Return a file's content, at most `limit` bytes."""
        copy = f"{FOLDER}/get-{uuid.uuid4().hex}"
        command = ["sh", "-c", _GET, "sh", path, copy, str(limit + 1)]
        result = await self.execute(command, None, b"", 1024, None, logged=False)
        self._stale.append(copy)
        if not result.ok:
            raise self._failed(result.stderr.strip())
        data = await self._unless_ended(self._connection.download(copy, limit + 1))
        if len(data) > limit:
            raise self._failed(f"{path} has more than {limit} bytes")
        return data

    async def end(self) -> None:
        """End the sandbox, also during a command, which then raises."""
        self._ended.set()
        await self._connection.end()

    async def _run(
        self, command: Sequence[str], stdin: bytes, output: _Output, on_output: OnOutput | None
    ) -> int:
        source = None
        if stdin:
            source = f"{FOLDER}/stdin-{uuid.uuid4().hex}"
            await self._unless_ended(self._connection.upload(source, stdin))
        request: dict[str, Any] = {
            "op": "start",
            "run": uuid.uuid4().hex,
            "command": list(command),
            "stdin": source,
            "remove": self._stale,
            "next": 0,
            "wait": _POLL_SECONDS,
        }
        try:
            while True:
                pieces, status = content_of(await self._call(request, _CALL_SECONDS))
                for stream, data in pieces:
                    output.add(stream, data)
                    if on_output is not None:
                        await on_output(_STREAMS[stream], data)
                if status is not None:
                    self._stale = []
                    return status
                request["next"] += len(pieces)
        except BaseException:
            await asyncio.shield(self._interrupt())
            raise

    async def _interrupt(self) -> None:
        """Have the supervisor kill the command; a sandbox that does not answer is ended."""
        if self._ended.is_set():
            return
        with contextlib.suppress(SandboxRuntimeError, TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                if "killed" in await self._call({"op": "kill"}, _KILL_SECONDS):
                    return
        await self.end()

    async def _call(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        encoded = base64.b64encode(json.dumps(request).encode()).decode()
        command = [*self._program("call"), self._id, encoded]
        answer = await self._unless_ended(self._connection.run(command, seconds))
        try:
            reply = json.loads(answer)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or "error" in reply:
            raise self._failed(f"the supervisor answers {str(reply or answer)[:200]!r}")
        return reply

    async def _unless_ended(self, work: Awaitable[T]) -> T:
        """Await `work`; raises as soon as the sandbox has ended."""
        task = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.is_set():
                raise self._failed("the sandbox has ended")
            return await task
        finally:
            task.cancel()
            ended.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    def _program(self, mode: str) -> list[str]:
        return ["python3", "-I", "-S", "-c", _guest(), mode]

    def _failed(self, message: str, seconds: float | None = None) -> SandboxRuntimeError:
        return SandboxRuntimeError(
            f"sandbox {self._name!r}: {message}",
            operation="exec",
            sandbox_name=self._name,
            timeout_seconds=seconds,
        )


def content_of(reply: dict[str, Any]) -> tuple[list[tuple[int, bytes]], int | None]:
    """Return the output and the exit status in a reply, which sandboxed code may have forged."""
    pieces, status = reply.get("pieces"), reply.get("status")
    try:
        if not (status is None or (type(status) is int and -64 <= status <= 255)):  # noqa: PLR2004
            raise ValueError("the exit status")  # noqa: TRY301 - one error for all forms
        if not isinstance(pieces, list) or any(stream not in (0, 1) for stream, _ in pieces):
            raise ValueError("the output")  # noqa: TRY301 - as above
        return [(stream, base64.b64decode(data)) for stream, data in pieces], status
    except (ValueError, TypeError) as error:
        raise SandboxRuntimeError(f"the supervisor's reply is invalid: {error}") from error
