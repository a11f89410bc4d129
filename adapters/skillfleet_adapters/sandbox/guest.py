"""The supervisor of one sandbox: a program of the standard library, passed to `python -c`.

With bubblewrap it runs inside the namespaces, with Landlock outside of the confinement, which it
applies to each command. It executes one command at a time, gets its three descriptors with the
request, and kills everything that a command leaves. When its control socket closes, because the
worker stopped it or died, it kills what runs and ends. With Landlock two processes guard each
other: the death of one, by SIGKILL too, lets the other kill everything.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False
"""True for type checkers: `typing`, `signal` and `socket` cost milliseconds at each start."""
if TYPE_CHECKING:
    import signal
    import socket
    from typing import Any, NoReturn
else:
    import _signal as signal
    import _socket as socket

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 4, 22, 36
PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 38, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
WITH_UNIX_SOCKETS, RESOLVE_UNIX = 9, 1 << 16
EXECUTE_READ, READ_WRITE_FILE, ALL_FILES = 0b1101, 0b1100000000000110, (1 << 16) - 1
ALL_OF_A_FILE = 0b1100000000000111
DEVICE_NODES = 1 << 6 | 1 << 11
MESSAGE_BYTES = 1 << 18
STREAMS = 3
HANDLED = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM)

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> int:
    """Return the result of a call to the kernel; raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def landlock(rules: dict[str, list[str]]) -> None:
    """Confine this process to the files in `rules`; no TCP, no signals to others.

    From version 9 on, Landlock also refuses the Unix sockets outside of the folders to `connect`.
    """
    sockets = RESOLVE_UNIX if libc.syscall(LANDLOCK_CREATE, None, 0, 1) >= WITH_UNIX_SOCKETS else 0
    attributes = struct.pack("<QQQ", ALL_FILES | sockets, 3, 3)
    ruleset = check(libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0))
    access = {
        "read": EXECUTE_READ,
        "device": READ_WRITE_FILE,
        "write": ALL_FILES & ~DEVICE_NODES,
        "connect": sockets,
    }
    for kind, paths in rules.items():
        for path in paths if access[kind] else ():
            if not os.path.exists(path):
                continue
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = access[kind] & (~0 if os.path.isdir(path) else ALL_OF_A_FILE)
            rule = struct.pack("<Qi", allowed, place)
            check(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0))
            os.close(place)
    check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def confine(config: dict[str, Any]) -> None:
    """Apply limits, Landlock and the filter of system calls to this process for good."""
    if config["cpus"]:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config["cpus"]])
    for name, wanted in config["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if config["landlock"]:
        landlock(config["landlock"])
    code = bytes.fromhex(config["seccomp"])
    memory = ctypes.create_string_buffer(code)
    program = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(memory))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0))


def prefer_to_supervisor() -> None:
    """Have the kernel end this process first where memory is short."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        pass  # /proc may be read-only


def become(config: dict[str, Any], request: list[bytes], descriptors: list[int]) -> bytes:
    """Turn this new process into the command; returns for Python code, with the code."""
    code = 126
    try:
        os.setsid()
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(STREAMS, 1 << 16)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for handled in HANDLED:
            signal.signal(handled, signal.SIG_DFL)
        check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
        os.chdir(config["folder"])
        prefer_to_supervisor()
        confine(config)
        kind, *command = request
        if kind == b"python":
            os.environ.clear()
            os.environ.update(config["environment"])
            return command[0]
        os.execvpe(command[0], command, config["environment"])
    except FileNotFoundError as error:
        code = 127
        os.write(2, request[1] + f": {error.strerror}\n".encode())
    except BaseException as error:
        os.write(2, f"the command cannot start: {error!r}\n".encode())
    os._exit(code)


def execute(code: bytes) -> None:
    """Execute Python code as `python -c` does, in a fresh `__main__`."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c"]
    module = sys.modules["__main__"] = type(sys)("__main__")
    try:
        exec(compile(code, "<string>", "exec"), vars(module))
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        error.__traceback__ = trace and trace.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


def descendants(process: int) -> list[int]:
    """Return all processes below one."""
    found = []
    try:
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children") as children:
                for child in children.read().split():
                    found += [int(child), *descendants(int(child))]
    except OSError:
        pass  # it has ended
    return found


def send(process: int, number: int) -> None:
    """Send a signal to a process, which may have ended."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass


def kill_all() -> None:
    """Kill everything below this process; what is orphaned comes here, as it is a subreaper."""
    stopped: set[int] = set()
    while new := set(descendants(os.getpid())) - stopped:
        # A stopped process does not fork: the set gets complete.
        stopped |= new
        for process in new:
            send(process, signal.SIGSTOP)
    while left := descendants(os.getpid()):
        for process in left:
            send(process, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass  # those that are left are about to become children of this process


def leave(*_: object) -> NoReturn:
    """End this process with everything below it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kill_all()
    os._exit(0)


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message with its descriptors."""
    data, received, _, _ = control.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(4 * STREAMS))
    numbers = b"".join(each[2] for each in received)
    return data, list(struct.unpack(f"{len(numbers) // 4}i", numbers))


def listen(address: Any) -> socket.socket:
    """Return a listening socket, at a path or at a host and port."""
    listener = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    listener.bind(address)
    listener.listen(64)
    return listener


def get_ready(config: dict[str, Any], control: socket.socket) -> None:
    """Give the worker the sockets on which the egress proxy accepts, and keep none of them.

    A socket stays in the network and the file system in which it was made.
    """
    listeners = [listen(address) for address in config["listen"]]
    numbers = struct.pack(f"{len(listeners)}i", *(each.fileno() for each in listeners))
    control.sendmsg(
        [b"ready"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
    )
    for listener in listeners:
        listener.close()


def supervise(config: dict[str, Any], control: socket.socket) -> bytes:
    """Execute one request after the other; returns only in the process of Python code."""
    get_ready(config, control)
    while True:
        data, descriptors = receive(control)
        if not data:
            leave()
        if len(descriptors) != STREAMS:
            continue  # a kill that came after the command's end
        child = os.fork()
        if child == 0:
            return become(config, data.split(b"\0"), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        status = wait(control, child)
        kill_all()
        control.send(str(status).encode())


def wait(control: socket.socket, child: int) -> int:
    """Return the exit status of the command, which a message or the socket's end kills."""
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, control.fileno()], [], [])
    os.close(ended)
    if control.fileno() in ready and not control.recv(MESSAGE_BYTES):
        leave()
    send(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def guard(control: socket.socket) -> None:
    """Fork, and return in the child; this process kills what a dead child leaves."""
    process = os.getpid()
    supervisor = os.fork()
    if supervisor:
        control.close()
        os.waitpid(supervisor, 0)
        leave()
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))
    if os.getppid() != process:
        leave()


def main(config: dict[str, Any]) -> None:
    """Supervise as the worker says; the process of Python code returns from it."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    for ignored in HANDLED:
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    if config["guarded"]:
        guard(control)
    # The objects of now are left alone by collections, which would copy their pages in a child.
    gc.freeze()
    execute(supervise(config, control))
