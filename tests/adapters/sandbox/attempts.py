"""The attempts of the escape table in docs/isolation.md: the code of each row."""

import re
from pathlib import Path

ATTEMPTS = {
    "read_outside": "open('/etc/hostname').read()",
    "list_outside": "os.listdir('/var/lib')",
    "write_outside": "open('/usr/x', 'w')",
    "write_root": "open('/x', 'w')",
    "write_system_temporary": "open('/var/tmp/x', 'w')",
    "write_dev": "open('/dev/x', 'w')",
    "system_files": "os.listdir('/sys/kernel')",
    "process_root": "open(f'/proc/{WORKER}/root/etc/hostname').read()",
    "worker_environment": "open(f'/proc/{WORKER}/environ').read()",
    "core_pattern": "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)",
    "symlink": "(os.symlink('/etc/hostname', 'l'), open('l').read())",
    "hard_link": "os.link('/etc/hostname', 'h')",
    "change_mode_outside": "os.chmod(OUTSIDE, 0o777)",
    "change_time_outside": "os.utime(OUTSIDE)",
    "device_node": "os.mknod('disk', 0o60600, os.makedev(8, 0))",
    "kernel_memory": "open('/dev/mem')",
    "tcp": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "ipv6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "netlink": "socket.socket(16, socket.SOCK_RAW)",
    "packet": "socket.socket(17, socket.SOCK_RAW)",
    "kernel_crypto": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "abstract_socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + NAME)",
    "socket_file": "socket.socket(socket.AF_UNIX).connect(SOCKET)",
    "shared_memory": "call(29 if X86 else 194, KEY, 0, 0)",
    "shared_memory_by_number": "call(30 if X86 else 196, SEGMENT, 0, 0o10000)",
    "signal_worker": "os.kill(WORKER, 0)",
    "ptrace": "call(101 if X86 else 117, 16, WORKER, 0, 0)",
    "read_memory": "call(310 if X86 else 270, WORKER, 0, 0, 0, 0, 0)",
    "descriptor_of_worker": "call(438, 0, 0, 0)",
    "memory_of_first": "open('/proc/1/mem', 'r+b')",
    "memory_of_supervisor": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "limit_of_worker": "resource.prlimit(WORKER, resource.RLIMIT_NOFILE, (0, 0))",
    "priority_of_worker": "os.setpriority(os.PRIO_PROCESS, WORKER, 19)",
    "scheduler_of_worker": "os.sched_setscheduler(WORKER, os.SCHED_IDLE, os.sched_param(0))",
    "disk_priority_of_worker": "call(251 if X86 else 30, 1, WORKER, 3 << 13)",
    "new_user_namespace": "call(272 if X86 else 97, 0x10000000)",
    "new_mount_namespace": "call(272 if X86 else 97, 0x00020000)",
    "clone_namespace": "call(56 if X86 else 220, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "call(435, 0, 0)",
    "enter_namespace": "call(308 if X86 else 268, 0, 0)",
    "mount": "call(165 if X86 else 40, 0, 0, 0, 0, 0)",
    "new_mount_api": "call(430, 0, 0)",
    "chroot": "os.chroot('.')",
    "become_root": "os.setuid(0)",
    "file_handle": "call(304 if X86 else 265, 0, 0, 0)",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "host_name": "socket.sethostname('x')",
    "io_uring": "call(425, 1, 0)",
    "bpf": "call(321 if X86 else 280, 0, 0, 0)",
    "keyring": "call(250 if X86 else 219, 0, 0, 0, 0, 0)",
    "user_fault": "call(323 if X86 else 282, 1)",
    "kernel_module": "call(313 if X86 else 273, -1, 0, 0)",
    "raise_limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "raise_priority": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
    "real_time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "more_processors": "os.sched_setaffinity(0, range(os.cpu_count()))",
    "memory_bomb": "bytearray(1 << 30)",
    "large_file": "os.posix_fallocate(os.open('f', os.O_CREAT | os.O_RDWR), 0, 1 << 30)",
    "terminal_input": "call(16 if X86 else 29, 0, 0x5412, 0)",
}
"""Each must fail, as its row says."""

WORDS = {
    "ENOENT": "not there",
    "ESRCH": "not there",
    "ECONNREFUSED": "not there",
    "EINVAL": "no such number",
    "EPERM": "refused",
    "EACCES": "refused",
    "EXDEV": "refused",
    "ValueError": "refused",
    "EROFS": "read-only",
    "ENOSYS": "no such call",
    "EFBIG": "over the limit",
    "MemoryError": "over the limit",
}
"""What happens, in the words of the table, by the error."""

PROLOGUE = """
import ctypes, errno, os, platform, resource, signal, socket, sys, time
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def call(*numbers):
    if libc.syscall(*map(ctypes.c_long, numbers)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
"""

_PAGE = Path(__file__).parents[3] / "docs" / "isolation.md"
_ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def code_of(name: str) -> str:
    """Return a program that makes an attempt and prints the error."""
    return (
        f"{PROLOGUE}try:\n    {ATTEMPTS[name]}\n"
        "except OSError as error:\n    print(errno.errorcode[error.errno])\n"
        "except (ValueError, MemoryError) as error:\n    print(type(error).__name__)\n"
        "else:\n    print('ESCAPED')\n"
    )


def table() -> dict[str, dict[str, str]]:
    """Return what happens by attempt and kind, as the page has it."""
    rows = _ROW.findall(_PAGE.read_text("utf-8"))
    return {
        name: {"bubblewrap": bubblewrap, "landlock": landlock}
        for name, _, bubblewrap, landlock in rows
    }
