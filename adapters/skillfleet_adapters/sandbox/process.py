"""The process of one local sandbox, seen from the worker: start, commands, end."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from skillfleet.errors import InvalidArgumentsError, SandboxRuntimeError, SandboxUnavailable
from skillfleet.ports.sandbox import ExecResult, OnOutput
from skillfleet_adapters.sandbox.egress.policy import EgressPolicy
from skillfleet_adapters.sandbox.egress.proxy import EgressProxy
from skillfleet_adapters.sandbox.records import SandboxRecord, SandboxRecords

REQUEST_BYTES: Final = 96 * 1024
"""The largest command with its arguments."""
_START_SECONDS: Final = 20.0
_KILL_SECONDS: Final = 5.0
_PIECE: Final = 64 * 1024
_LOG_LINES: Final = 2000
_LOG_LINE_CHARACTERS: Final = 4000
CONTROL: Final = "{control}"
"""The argument of a supervisor that stands for the number of its control socket."""


@dataclass(frozen=True)
class Launch:
    """The command line of a supervisor."""

    command: Sequence[str]
    processes: int = 0
    """The limit on processes of its user, as it was computed for this start."""


@dataclass
class _Output:
    limit: int
    pieces: dict[str, bytearray] = field(
        default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()}
    )
    truncated: bool = False

    def add(self, stream: str, data: bytes) -> None:
        kept = self.pieces[stream]
        room = self.limit - len(kept)
        self.truncated |= len(data) > room
        kept += data[:room]

    def text(self, stream: str) -> str:
        return self.pieces[stream].decode(errors="replace")


class SandboxProcess:
    """A supervisor with its control socket. One command at a time, on the loop that started it."""

    def __init__(self, name: str, records: SandboxRecords, record: SandboxRecord) -> None:
        self._name = name
        self._records = records
        self._record = record
        self._lock = asyncio.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._egress: EgressProxy | None = None
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        """The last lines that commands wrote."""
        self.launch: Launch | None = None
        """The command line that started it."""

    @property
    def alive(self) -> bool:
        """True while the supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def assign(self, name: str, run_id: str, lease: str) -> None:
        """Give it, started before, to an attempt: from now on the record has these labels."""
        self._name = name
        self._record = replace(self._record, run_id=run_id, lease=lease)
        self._records.write(self._record)

    async def start(
        self, launch: Launch, owner: int | None, egress: EgressPolicy | None = None
    ) -> None:
        """Start the supervisor as the user `owner` (None: this one), and the proxy for its egress.

        Raises SandboxUnavailable.
        """
        self.launch = launch
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        self._control = ours
        with theirs:
            number = theirs.fileno()
            other_user: Mapping[str, Any] = {}
            if owner is not None:
                other_user = {"user": owner, "group": owner, "extra_groups": []}
            try:
                self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    [str(number) if part == CONTROL else part for part in launch.command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(number,),
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                    cwd="/",
                    start_new_session=True,
                    **other_user,
                )
            except OSError as error:
                raise SandboxUnavailable(f"{launch.command[0]} cannot start: {error}") from error
        self._record = self._records.started(self._record, self._process.pid)
        try:
            async with asyncio.timeout(_START_SECONDS):
                ready, listeners = await self._receive_start()
        except TimeoutError:
            ready, listeners = b"", []
        if not ready:
            raise SandboxUnavailable(f"the sandbox does not start: {await self._last_words()}")
        if egress is not None:
            self._egress = EgressProxy(egress, self._name, self._record.run_id)
            self._egress.start(listeners)

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
        """Execute one command, see `SandboxHandle.exec`: `exec` and words, `python` and code."""
        request, output = _encoded(command), _Output(limit)
        async with self._lock:
            try:
                async with asyncio.timeout(seconds):
                    status = await self._run(request, stdin, output, on_output)
            except TimeoutError as error:
                raise self._failed(
                    f"the command took longer than {seconds} s and was ended", seconds
                ) from error
            finally:
                for kept in output.pieces.values() if logged else ():
                    lines = kept.decode(errors="replace").splitlines()
                    self.log.extend(line[:_LOG_LINE_CHARACTERS] for line in lines)
        code = status if status >= 0 else 128 - status
        return ExecResult(output.text("stdout"), output.text("stderr"), code, output.truncated)

    async def end(self) -> None:
        """End the supervisor with all below it and delete its folder; for a second time, too."""
        process = self._process
        control, self._control = self._control, None
        if control is not None:
            # Wakes up the supervisor, and a command that waits here.
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)
        if process is not None:
            await _until_ended(process, _KILL_SECONDS if self._record.graceful else 0.0)
        await asyncio.to_thread(self._records.end, self._record)
        if self._egress is not None:
            await self._egress.aclose()
        if control is not None:
            control.close()
        if process is not None:
            await _until_ended(process, _KILL_SECONDS)
            if process.stderr is not None:
                process.stderr.close()

    async def _run(
        self, request: bytes, stdin: bytes, output: _Output, on_output: OnOutput | None
    ) -> int:
        control = self._open_control()
        with _Pipes() as pipes:
            try:
                socket.send_fds(control, [request], pipes.theirs)
            except OSError as error:
                raise self._failed("the sandbox has ended") from error
            pipes.close(*pipes.theirs)
            answering = asyncio.ensure_future(self._receive())
            tasks = [
                answering,
                asyncio.ensure_future(_read(pipes.stdout[0], "stdout", output, on_output)),
                asyncio.ensure_future(_read(pipes.stderr[0], "stderr", output, on_output)),
                asyncio.ensure_future(_write(pipes, stdin)),
            ]
            answer = b""
            try:
                # A reader that fails would leave the command blocked in its output.
                await asyncio.gather(*tasks[:3])
                answer = answering.result()
            except BaseException:
                await asyncio.shield(self._interrupt(control, answering))
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if not answer:
            raise self._failed("the sandbox has ended")
        return _status(answer)

    async def _interrupt(self, control: socket.socket, answering: "asyncio.Task[bytes]") -> None:
        """Have the supervisor kill the command, unless it has ended.

        A supervisor that does not answer is ended.
        """
        answering.cancel()
        await asyncio.wait([answering])
        if not answering.cancelled():
            return
        with contextlib.suppress(OSError, TimeoutError):
            control.send(b"kill")
            async with asyncio.timeout(_KILL_SECONDS):
                if await self._receive():
                    return
        await self.end()

    async def _receive(self) -> bytes:
        control = self._open_control()
        await _ready(control.fileno(), to_write=False)
        try:
            return control.recv(_PIECE)
        except OSError:
            return b""

    async def _receive_start(self) -> tuple[bytes, list[socket.socket]]:
        """Return the supervisor's first message, which it sends before it executes anything."""
        control = self._open_control()
        await _ready(control.fileno(), to_write=False)
        data, descriptors, _, _ = socket.recv_fds(control, _PIECE, 2, socket.MSG_CMSG_CLOEXEC)
        return data, [socket.socket(fileno=each) for each in descriptors]

    def _open_control(self) -> socket.socket:
        if self._control is None:
            raise self._failed("the sandbox has ended")
        return self._control

    def _failed(self, message: str, seconds: float | None = None) -> SandboxRuntimeError:
        return SandboxRuntimeError(
            f"sandbox {self._name!r}: {message}",
            operation="exec",
            sandbox_name=self._name,
            timeout_seconds=seconds,
        )

    async def _last_words(self) -> str:
        process = self._process
        if process is None or process.stderr is None:
            return "no process"
        process.kill()
        await _until_ended(process, _KILL_SECONDS)
        os.set_blocking(process.stderr.fileno(), False)
        return (process.stderr.read() or b"").decode(errors="replace").strip()[-500:]


def _encoded(command: Sequence[str]) -> bytes:
    try:
        request = "\0".join(command).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentsError(f"a command must be text: {error}") from error
    if len(request) > REQUEST_BYTES or request.count(b"\0") != len(command) - 1:
        raise InvalidArgumentsError(
            f"a command may have {REQUEST_BYTES} bytes and no zero bytes: put the code into a"
            " file of the sandbox"
        )
    return request


def _status(answer: bytes) -> int:
    """Return the exit status in an answer, which sandboxed code may have forged."""
    return int(answer) if re.fullmatch(rb"-?\d{1,3}", answer) else 1


class _Pipes:
    """The pipes of one command; each end is closed once."""

    def __init__(self) -> None:
        self.stdin, self.stdout, self.stderr = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        self.theirs = [self.stdin[0], self.stdout[1], self.stderr[1]]
        """The ends for the command."""
        self._open = {*self.stdin, *self.stdout, *self.stderr}

    def __enter__(self) -> Self:
        """Return the pipes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the ends that are open."""
        self.close(*self._open)

    def close(self, *ends: int) -> None:
        """Close ends unless they are closed."""
        for end in self._open.intersection(ends):
            self._open.remove(end)
            os.close(end)


async def _ready(descriptor: int, *, to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add = loop.add_writer if to_write else loop.add_reader
    remove = loop.remove_writer if to_write else loop.remove_reader

    def note() -> None:
        if not ready.done():
            ready.set_result(None)

    add(descriptor, note)
    try:
        await ready
    finally:
        remove(descriptor)


async def _read(descriptor: int, stream: str, output: _Output, on_output: OnOutput | None) -> None:
    os.set_blocking(descriptor, False)
    while True:
        await _ready(descriptor, to_write=False)
        data = os.read(descriptor, _PIECE)
        if not data:
            return
        output.add(stream, data)
        if on_output is not None:
            await on_output(stream, data)


async def _write(pipes: _Pipes, data: bytes) -> None:
    descriptor = pipes.stdin[1]
    os.set_blocking(descriptor, False)
    rest = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while rest:
            await _ready(descriptor, to_write=True)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(descriptor, rest) :]
    pipes.close(descriptor)


async def _until_ended(process: subprocess.Popen[bytes], seconds: float) -> None:
    if process.poll() is not None:
        return
    ended = os.pidfd_open(process.pid)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _ready(ended, to_write=False)
    finally:
        os.close(ended)
    process.poll()
