"""The system-call filter of local sandboxes: a classic BPF program for seccomp.

The names are resolved for x86_64 and aarch64; another machine has no local sandboxes.
"""

import errno
import platform
import struct
from collections.abc import Mapping
from typing import Final

from skillfleet.errors import SandboxUnavailable

_SAME: Final[dict[str, int]] = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442, "fchmodat2": 452, "setxattrat": 463,
    "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469, "clone3": 435,
}  # fmt: skip
"""The numbers of newer calls are the same on all machines."""

_X86_64: Final[Mapping[str, int]] = _SAME | {
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "keyctl": 250,
    "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
    "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305,
    "sethostname": 170, "setdomainname": 171, "swapon": 167, "swapoff": 168, "reboot": 169,
    "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "delete_module": 176,
    "finit_module": 313, "quotactl": 179, "open_by_handle_at": 304, "name_to_handle_at": 303,
    "kcmp": 312, "acct": 163, "syslog": 103, "sched_setaffinity": 203, "iopl": 172, "ioperm": 173,
    "clone": 56, "ioctl": 16, "socket": 41, "socketpair": 53, "connect": 42, "bind": 49,
    "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "chmod": 90, "fchmodat": 268,
    "chown": 92, "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261,
    "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "removexattr": 197,
    "lremovexattr": 198, "inotify_add_watch": 254, "fanotify_init": 300, "fanotify_mark": 301,
    "shmat": 30, "shmctl": 31, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "semop": 65, "semctl": 66,
    "semtimedop": 220, "mq_unlink": 241, "ioprio_set": 251, "prlimit64": 302, "setpriority": 141,
    "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314,
}  # fmt: skip

_AARCH64: Final[Mapping[str, int]] = _SAME | {
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "keyctl": 219,
    "add_key": 217, "request_key": 218, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
    "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
    "settimeofday": 170, "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266,
    "sethostname": 161, "setdomainname": 162, "swapon": 224, "swapoff": 225, "reboot": 142,
    "kexec_load": 104, "kexec_file_load": 294, "init_module": 105, "delete_module": 106,
    "finit_module": 273, "quotactl": 60, "open_by_handle_at": 265, "name_to_handle_at": 264,
    "kcmp": 272, "acct": 89, "syslog": 116, "sched_setaffinity": 122, "clone": 220, "ioctl": 29,
    "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "shmget": 194, "msgget": 186,
    "semget": 190, "mq_open": 180, "fchmodat": 53, "fchownat": 54, "utimensat": 88, "setxattr": 5,
    "lsetxattr": 6, "removexattr": 14, "lremovexattr": 15, "inotify_add_watch": 27,
    "fanotify_init": 262, "fanotify_mark": 263, "shmat": 196, "shmctl": 195, "msgsnd": 189,
    "msgrcv": 188, "msgctl": 187, "semop": 193, "semctl": 191, "semtimedop": 192, "mq_unlink": 181,
    "ioprio_set": 30, "prlimit64": 261, "setpriority": 140, "sched_setparam": 118,
    "sched_setscheduler": 119, "sched_setattr": 274,
}  # fmt: skip

_MACHINES: Final = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

_OF_ITSELF: Final = ("prlimit64", "sched_setparam", "sched_setscheduler", "sched_setattr")
"""Calls whose first argument is a process: 0 is the caller itself."""

_FOR_ALL: Final = frozenset(_X86_64) - {
    "clone", "clone3", "ioctl", "socketpair", "utimensat", "setpriority", *_OF_ITSELF,
}  # fmt: skip

_WITHOUT_NAMESPACES: Final = frozenset({
    "socket", "connect", "bind", "shmget", "msgget", "semget", "mq_open", "chmod", "fchmodat",
    "fchmodat2", "chown", "lchown", "fchownat", "utime", "utimes", "futimesat", "setxattr",
    "lsetxattr", "removexattr", "lremovexattr", "setxattrat", "removexattrat", "file_setattr",
    "inotify_add_watch", "fanotify_init", "fanotify_mark", "shmat", "shmctl", "msgsnd", "msgrcv",
    "msgctl", "semop", "semctl", "semtimedop", "mq_unlink", "ioprio_set",
})  # fmt: skip
"""Refused where only Landlock separates files, processes and the IPC of System V.

Landlock does not cover these calls. Those on System V take numbers that can be guessed.
"""

_AF_UNIX, _AF_INET, _SOCK_STREAM, _SOCK_TYPE, _IPPROTO_TCP = 1, 2, 1, 0xF, 6
_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWUSER, NEWPID, NEWNET, NEWIPC, NEWUTS, NEWCGROUP and NEWNS; `clone` has no NEWTIME."""
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: they type into the worker's terminal."""
_X32: Final = 0x40000000

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4


def _instruction(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, k)


_REFUSE: Final = _instruction(_RETURN, _ERRNO | errno.EPERM)


def _low(argument: int) -> int:
    return 16 + 8 * argument


def program(*, namespaces: bool, egress: bool = False) -> bytes:
    """Return the filter; `namespaces`: the sandbox has its own network, processes and files.

    `egress`: it may connect to the proxy, by TCP in a network of its own, else by a Unix socket.
    Raises SandboxUnavailable on a machine whose numbers are not known.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise SandboxUnavailable(f"there are no local sandboxes on {machine}")
    architecture, numbers = _MACHINES[machine]
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32, 0, 1),
        _REFUSE,
        # A C library that is refused clone3 uses clone, whose flags a filter can read.
        _instruction(_EQUAL, numbers["clone3"], 0, 1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    refused = _FOR_ALL - _WITHOUT_NAMESPACES if namespaces else _FOR_ALL
    if egress:
        refused -= {"socket", "connect"}
    for name in sorted(refused & numbers.keys()):
        code += [_instruction(_EQUAL, numbers[name], 0, 1), _REFUSE]
    code += _if_call(
        numbers["clone"],
        _instruction(_LOAD, _low(0)),
        _instruction(_AND, _NEW_NAMESPACES),
        _instruction(_EQUAL, 0, 1, 0),
        _REFUSE,
    )
    for request in _TERMINAL_INPUT:
        code += _if_call(
            numbers["ioctl"],
            _instruction(_LOAD, _low(1)),
            _instruction(_EQUAL, request, 0, 1),
            _REFUSE,
        )
    if namespaces:
        code += _sockets(numbers, egress=egress)
    else:
        code += [*_pairs_only(numbers), *_itself_only(numbers)]
        if egress:
            code += _if_call(numbers["socket"], *_UNIX_STREAM)
    code.append(_instruction(_RETURN, _ALLOW))
    return b"".join(code)


def _if_call(number: int, *body: bytes) -> list[bytes]:
    """Return the body for one call, followed by loading the number for the next check."""
    return [
        _instruction(_EQUAL, number, 0, len(body) + 1),
        *body,
        _instruction(_LOAD, _NUMBER),
    ]


def _sockets(numbers: Mapping[str, int], *, egress: bool) -> list[bytes]:
    """Allow sockets of the family AF_UNIX: the private file system and network bound them.

    With egress TCP over IPv4, too: the private network has a loopback interface only.
    """
    family = (_instruction(_LOAD, _low(0)), _instruction(_EQUAL, _AF_UNIX, 1, 0), _REFUSE)
    made = _UNIX_OR_TCP if egress else family
    return [*_if_call(numbers["socket"], *made), *_if_call(numbers["socketpair"], *family)]


_UNIX_STREAM: Final = (
    _instruction(_LOAD, _low(0)),
    _instruction(_EQUAL, _AF_UNIX, 1, 0),
    _REFUSE,
    _instruction(_LOAD, _low(1)),
    _instruction(_AND, _SOCK_TYPE),
    _instruction(_EQUAL, _SOCK_STREAM, 1, 0),
    _REFUSE,
)
_UNIX_OR_TCP: Final = (
    _instruction(_LOAD, _low(0)),
    _instruction(_EQUAL, _AF_UNIX, 10, 0),
    _instruction(_EQUAL, _AF_INET, 1, 0),
    _REFUSE,
    _instruction(_LOAD, _low(1)),
    _instruction(_AND, _SOCK_TYPE),
    _instruction(_EQUAL, _SOCK_STREAM, 1, 0),
    _REFUSE,
    _instruction(_LOAD, _low(2)),
    _instruction(_EQUAL, 0, 2, 0),
    _instruction(_EQUAL, _IPPROTO_TCP, 1, 0),
    _REFUSE,
)


def _pairs_only(numbers: Mapping[str, int]) -> list[bytes]:
    """Allow connected pairs of streams, which cannot be sent to an address.

    Times may be set of open files only.
    """
    return [
        *_if_call(
            numbers["socketpair"],
            *_UNIX_STREAM,
        ),
        *_if_call(
            numbers["utimensat"],
            _instruction(_LOAD, _low(1)),
            _instruction(_EQUAL, 0, 1, 0),
            _REFUSE,
            _instruction(_LOAD, _low(1) + 4),
            _instruction(_EQUAL, 0, 1, 0),
            _REFUSE,
        ),
    ]


def _itself_only(numbers: Mapping[str, int]) -> list[bytes]:
    """Allow limits and priorities of the calling process only: Landlock does not guard others."""
    itself = [_instruction(_LOAD, _low(0)), _instruction(_EQUAL, 0, 1, 0), _REFUSE]
    second = [_instruction(_LOAD, _low(1)), _instruction(_EQUAL, 0, 1, 0), _REFUSE]
    code = _if_call(numbers["setpriority"], *itself, *second)
    for name in _OF_ITSELF:
        code += _if_call(numbers[name], *itself)
    return code
