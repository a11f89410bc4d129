"""The supervisor inside a remote sandbox: a program of the standard library.

`serve NAME` starts it in the background; it executes one command at a time, keeps its output until
the worker has read it, and kills everything that a command leaves. `call NAME REQUEST` passes a
request to it and prints the reply. Both are short commands, so that a runtime that can only execute
a command to its end is enough.
"""

import base64
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
FOLDER = ".skillfleet"
HELD_BYTES, REPLY_BYTES, PIECE = 1 << 21, 1 << 20, 1 << 16
REQUEST_SECONDS = 10.0


def children() -> dict[int, list[int]]:
    """Return the children of each process."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(name))
    return found


def descendants() -> list[int]:
    """Return all processes below this one."""
    below, pending = children(), [os.getpid()]
    found: list[int] = []
    while pending:
        new = below.get(pending.pop(), [])
        found += new
        pending += new
    return found


def kill_all() -> None:
    """Kill everything below this process; what is orphaned comes here, as it is a subreaper."""
    stopped: set[int] = set()
    while new := set(descendants()) - stopped:
        # A stopped process does not fork: the set gets complete.
        stopped |= new
        for process in new:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGSTOP)
    while left := descendants():
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


class Supervisor:
    """The command that runs, and the request that waits for its output."""

    def __init__(self, name: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"\0skillfleet-{name}")
        self.listener.listen(8)
        self.run: str | None = None
        self.child = 0
        self.status: int | None = None
        self.pipes: dict[int, int] = {}
        self.pieces: list[tuple[int, bytes]] = []
        self.first = 0
        self.waiting: tuple[socket.socket, int, float] | None = None

    def serve(self) -> None:
        """Answer requests for good."""
        wakeup, written = socket.socketpair()
        wakeup.setblocking(False)
        written.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        self.selector.register(wakeup, selectors.EVENT_READ, None)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        while True:
            pause = None if self.waiting is None else max(0, self.waiting[2] - time.monotonic())
            for key, _ in self.selector.select(pause):
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj is wakeup:
                    with contextlib.suppress(BlockingIOError):
                        wakeup.recv(PIECE)
                elif key.fd in self.pipes:
                    self.read(key.fd)
            self.reap()
            self.answer()

    def accept(self) -> None:
        """Read one request; the one that waits is answered first."""
        connection, _ = self.listener.accept()
        connection.settimeout(REQUEST_SECONDS)
        try:
            with connection.makefile("rb") as stream:
                request = json.loads(stream.readline())
            self.answer(now=True)
            self.handle(connection, request)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reply(connection, {"error": repr(error)})

    def handle(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Start a command, wait for its output, or kill it."""
        if request["op"] == "kill":
            kill_all()
            self.finish(-signal.SIGKILL)
            reply(connection, {"killed": True})
            return
        if request["op"] == "start" and request["run"] != self.run:
            self.start(request)
        if request["run"] != self.run:
            raise ValueError("another command runs")
        self.drop(request["next"])
        self.waiting = (connection, request["next"], time.monotonic() + request["wait"])

    def start(self, request: dict[str, Any]) -> None:
        """Start a command; the last one is over or given up."""
        kill_all()
        self.finish(None)
        self.run, self.pieces, self.first = request["run"], [], 0
        for name in request["remove"]:
            with contextlib.suppress(OSError):
                os.unlink(name)
        command, stdin = request["command"], request["stdin"] or os.devnull
        ends = [os.pipe() for _ in range(2)]
        try:
            with open(stdin, "rb") as source:
                if request["stdin"]:
                    os.unlink(stdin)
                process = subprocess.Popen(
                    command,
                    stdin=source,
                    stdout=ends[0][1],
                    stderr=ends[1][1],
                    start_new_session=True,
                )
            self.child = process.pid
            process.returncode = 0  # its end is awaited here
        except (OSError, ValueError) as error:
            self.status = 127 if isinstance(error, FileNotFoundError) else 126
            os.write(ends[1][1], f"{command[0]}: {error}\n".encode(errors="replace")[:PIECE])
        for stream, (pipe, target) in enumerate(ends):
            os.close(target)
            os.set_blocking(pipe, False)
            self.pipes[pipe] = stream
        self.listen()

    def listen(self) -> None:
        """Read the pipes while there is room for what they bring."""
        room = sum(len(data) for _, data in self.pieces) < HELD_BYTES
        for pipe in self.pipes:
            known = pipe in self.selector.get_map()
            if room and not known:
                self.selector.register(pipe, selectors.EVENT_READ, None)
            elif known and not room:
                self.selector.unregister(pipe)

    def read(self, pipe: int) -> None:
        """Keep a piece of output."""
        try:
            data = os.read(pipe, PIECE)
        except BlockingIOError:
            return
        if data:
            self.pieces.append((self.pipes[pipe], data))
            self.listen()
        else:
            self.close(pipe)

    def close(self, pipe: int) -> None:
        """Close a pipe."""
        if pipe in self.selector.get_map():
            self.selector.unregister(pipe)
        del self.pipes[pipe]
        os.close(pipe)

    def drop(self, first: int) -> None:
        """Forget the pieces that the worker has."""
        del self.pieces[: max(0, first - self.first)]
        self.first = max(self.first, first)
        self.listen()

    def reap(self) -> None:
        """Note the end of the command, and kill what it left; its pipes close then."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            if process == self.child:
                self.child = 0
                kill_all()
                self.status = os.waitstatus_to_exitcode(status)

    def finish(self, status: int | None) -> None:
        """Forget the command that was killed."""
        for pipe in list(self.pipes):
            self.close(pipe)
        self.child, self.status = 0, status

    def answer(self, *, now: bool = False) -> None:
        """Answer the request that waits, once there is something new."""
        if self.waiting is None:
            return
        connection, first, end = self.waiting
        over = self.status is not None and not self.pipes
        new = self.pieces[max(0, first - self.first) :]
        if not (new or over or now or time.monotonic() >= end):
            return
        self.waiting = None
        sent, size = [], 0
        for stream, data in new:
            if size and size + len(data) > REPLY_BYTES:
                break
            size += len(data)
            sent.append([stream, base64.b64encode(data).decode()])
        over = over and len(sent) == len(new)
        reply(connection, {"pieces": sent, "status": self.status if over else None})


def reply(connection: socket.socket, content: dict[str, Any]) -> None:
    """Send a reply to a caller, which may be gone."""
    with contextlib.suppress(OSError), connection:
        connection.sendall(json.dumps(content).encode())


def serve(name: str) -> None:
    """Start the supervisor in the background."""
    os.makedirs(FOLDER, exist_ok=True)
    supervisor = Supervisor(name)
    if os.fork():
        return
    os.setsid()
    empty = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(empty, number)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for survived in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # A handler, as a command would inherit that a signal is ignored.
        signal.signal(survived, lambda *_: None)
    supervisor.serve()


def call(name: str, request: str) -> None:
    """Print the reply to a request."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0skillfleet-{name}")
        connection.sendall(base64.b64decode(request) + b"\n")
        with connection.makefile("rb") as stream:
            sys.stdout.buffer.write(stream.read())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        call(sys.argv[2], sys.argv[3])
