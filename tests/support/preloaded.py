"""Processes that begin with their modules loaded, as forks of a process that has imported them.

Imports are most of the start of a worker or a command, and the tests start hundreds of them.
All else happens in the new process, which has its own environment, output, signals and process
group.
"""

import atexit
import functools
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_NUMBER = 10
"""The length of a number on a socket: a process id, an exit code, the size of a request."""


class PreloadedProcess:
    """A running process; its methods are those of subprocess.Popen."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = _number_from(status)

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        with self._lock:
            if self.returncode is None:
                self._status.setblocking(False)
                with suppress(BlockingIOError):
                    self.returncode = _number_from(self._status)
                    self._status.close()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the process has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    log: Path,
    preload: tuple[str, ...],
    new_session: bool = False,
) -> PreloadedProcess:
    """Run `python -m MODULE ARGUMENTS` in `env`; its output is added to `log`.

    The modules of `preload` are imported already, and must not read the environment then.
    """
    request = {"argv": [module, *arguments], "env": dict(env), "new_session": new_session}
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, flags, 0o600)
    try:
        return _start(request, [nothing, output, output], preload)
    finally:
        os.close(nothing)
        os.close(output)


def run(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path,
    stdin: str,
    preload: tuple[str, ...],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` to its end; its output goes into pipes."""
    request = {"argv": [module, *arguments], "env": dict(env), "cwd": str(cwd)}
    with tempfile.TemporaryFile() as given, ThreadPoolExecutor(2) as readers:
        given.write(stdin.encode())
        given.seek(0)
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        process = _start(request, [given.fileno(), to_out, to_err], preload)
        os.close(to_out)
        os.close(to_err)
        outputs = readers.map(_text_of, (out, err))
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess([module, *arguments], code, *outputs)


def _text_of(pipe: int) -> str:
    with open(pipe, encoding="utf-8") as file:
        return file.read()


def _start(
    request: Mapping[str, Any], streams: Sequence[int], preload: tuple[str, ...]
) -> PreloadedProcess:
    """Have a fork made for `request`; `streams` become its stdin, stdout and stderr."""
    of_interpreter = sorted(item for item in request["env"].items() if item[0].startswith("PYTHON"))
    return _preloader(preload, tuple(of_interpreter)).start(json.dumps(request).encode(), streams)


class _Preloader:
    """The process that has loaded the modules, and forks for each request."""

    def __init__(self, modules: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *modules],
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, request: bytes, streams: Sequence[int]) -> PreloadedProcess:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            socket.send_fds(self._requests, [_number_to(len(request))], [theirs.fileno(), *streams])
            self._requests.sendall(request)
        return PreloadedProcess(ours)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


@functools.cache
def _preloader(modules: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> _Preloader:
    preloader = _Preloader(modules, dict(environment))
    atexit.register(preloader.close)
    return preloader


def _number_to(number: int) -> bytes:
    return b"%*d" % (_NUMBER, number)


def _number_from(sender: socket.socket) -> int:
    return int(sender.recv(_NUMBER, socket.MSG_WAITALL))


# --- in the process that forks --------------------------------------------------------------------


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request and return it in the new process; None when no more can come."""
    statuses: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno())
    with woken, waker, selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                woken.recv(1024)
                _report_ended(statuses)
            if requests not in ready:
                continue
            length, descriptors, _, _ = socket.recv_fds(requests, _NUMBER, 4)
            if not length:
                return None
            request: dict[str, Any] = json.loads(requests.recv(int(length), socket.MSG_WAITALL))
            status = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                for stream, descriptor in enumerate(descriptors[1:]):
                    os.dup2(descriptor, stream)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (requests, status, *statuses.values()):
                    inherited.close()
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            if pid == 0:
                return request
            status.send(_number_to(pid))
            statuses[pid] = status


def _report_ended(statuses: dict[int, socket.socket]) -> None:
    for pid in list(statuses):
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            with statuses.pop(pid) as status, suppress(OSError):
                status.send(_number_to(os.waitstatus_to_exitcode(code)))


def _become(request: dict[str, Any]) -> None:
    """Turn the fork into the process that was asked for."""
    # The streams of the forked process remember what they could do, such as to seek.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        binary = os.fdopen(number, "wb" if number else "rb", closefd=False)
        setattr(sys, name, io.TextIOWrapper(binary, old.encoding, old.errors, None, number == 2))
    if request.get("new_session"):
        os.setsid()
    os.chdir(request.get("cwd", "."))
    os.environ.clear()
    os.environ.update(request["env"])
    module, *arguments = request["argv"]
    sys.argv = [module, *arguments]
    # A worker whose loop is blocked executes itself anew with these.
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    descriptor, *preloaded = sys.argv[1:]
    for name in preloaded:
        importlib.import_module(name)
    if threading.active_count() > 1:
        sys.exit("an import started a thread, which no fork would have")
    asked = _serve(socket.socket(fileno=int(descriptor)))
    if asked is not None:
        _become(asked)
