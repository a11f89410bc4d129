"""The supervisor of one sandbox: a program of the standard library, passed to `python -c`.

With bubblewrap it runs inside the namespaces, with Landlock outside of the confinement, which it
applies to each command. It executes one command at a time, gets its three descriptors with the
request, and kills everything that a command leaves. When its control socket closes, because the
worker stopped it or died, it kills what runs and ends.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 4, 22, 36
PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 38, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
EXECUTE_READ, READ_WRITE_FILE, ALL_FILES = 0b1101, 0b1100000000000110, (1 << 16) - 1
ALL_OF_A_FILE = 0b1100000000000111
DEVICE_NODES = 1 << 6 | 1 << 11
MESSAGE_BYTES = 1 << 18
HANDLED = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM)

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    """Return the result of a call to the kernel; raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def landlock(rules):
    """Confine this process to the files in `rules`; no TCP, no signals to others."""
    attributes = struct.pack("<QQQ", ALL_FILES, 3, 3)
    ruleset = check(libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0))
    access = {"read": EXECUTE_READ, "device": READ_WRITE_FILE, "write": ALL_FILES & ~DEVICE_NODES}
    for kind, paths in rules.items():
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
                allowed = access[kind] & (ALL_FILES if os.path.isdir(path) else ALL_OF_A_FILE)
                rule = struct.pack("<Qi", allowed, place)
                check(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0))
                os.close(place)
    check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def confine(config):
    """Apply limits, Landlock and the filter of system calls to this process for good."""
    if config["cpus"]:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config["cpus"]])
    for name, value in config["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if config["landlock"]:
        landlock(config["landlock"])
    code = bytes.fromhex(config["seccomp"])
    memory = ctypes.create_string_buffer(code)
    program = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(memory))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0))


def become(config, request, descriptors):
    """Replace this new process by the command; never returns."""
    code = 126
    try:
        os.setsid()
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 1 << 16)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for ignored in HANDLED:
            signal.signal(ignored, signal.SIG_DFL)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.chdir(config["folder"])
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
        confine(config)
        os.execvpe(request["command"][0], request["command"], config["environment"])
    except FileNotFoundError as error:
        code = 127
        os.write(2, f"{request['command'][0]}: {error.strerror}\n".encode())
    except BaseException as error:
        os.write(2, f"the command cannot start: {error!r}\n".encode())
    finally:
        os._exit(code)


def descendants(process):
    """Return all processes below one."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children") as children:
                for child in children.read().split():
                    found += [int(child), *descendants(int(child))]
    return found


def kill_all():
    """Kill everything below this process; what is orphaned comes here, as it is a subreaper."""
    stopped = set()
    while new := set(descendants(os.getpid())) - stopped:
        # A stopped process does not fork: the set gets complete.
        stopped |= new
        for process in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
    while left := descendants(os.getpid()):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def supervise(config, control):
    """Execute one request after the other until the control socket closes."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        if not data:
            return
        if len(descriptors) != 3:
            continue  # a kill that came after the command's end
        child = os.fork()
        if child == 0:
            become(config, json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        status = wait(control, child)
        kill_all()
        if status is None:
            return
        control.send(json.dumps({"status": status}).encode())


def wait(control, child):
    """Return the exit status of the command; None when the socket closes."""
    ended = os.pidfd_open(child)
    try:
        while True:
            ready, _, _ = select.select([ended, control], [], [])
            if control in ready and not control.recv(MESSAGE_BYTES):
                return None
            if ended in ready or control in ready:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(ended)


def main():
    """Supervise as the worker says."""
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(control.fileno(), False)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    for ignored in HANDLED:
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control.send(b"{}")
    try:
        supervise(config, control)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill_all()


if __name__ == "__main__":
    main()
