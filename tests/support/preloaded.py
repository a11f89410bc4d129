"""Processes that begin with their modules loaded, as forks of a process that has imported them.

A worker spends most of its start on imports, and the tests start some hundred workers. All else
happens in the new process, which has its own environment, output, signals and process group.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
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
    log.touch()
    of_interpreter = sorted(item for item in env.items() if item[0].startswith("PYTHON"))
    request = {
        "argv": [module, *arguments],
        "env": dict(env),
        "log": str(log),
        "new_session": new_session,
    }
    return _preloader(preload, tuple(of_interpreter)).start(json.dumps(request).encode())


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

    def start(self, request: bytes) -> PreloadedProcess:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            socket.send_fds(self._requests, [_number_to(len(request))], [theirs.fileno()])
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
            length, descriptors, _, _ = socket.recv_fds(requests, _NUMBER, 1)
            if not length:
                return None
            request: dict[str, Any] = json.loads(requests.recv(int(length), socket.MSG_WAITALL))
            status = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (requests, status, *statuses.values()):
                    inherited.close()
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
    if request["new_session"]:
        os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
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
