"""The escape table of docs/isolation.md: each row is an attempt from inside a sandbox."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.ports.sandbox import ExecResult, SandboxSpec
from tests.adapters.sandbox.conftest import provider_of

OWNER = 65534 if os.geteuid() == 0 else None
"""The user of sandboxes: what other users own is refused in any case."""

REFUSED = {
    "read_outside": "open('/etc/hostname').read()",
    "list_outside": "os.listdir('/home' if os.path.exists('/home') else '/var/lib')",
    "write_outside": "open('/usr/x', 'w')",
    "write_root": "open('/x', 'w')",
    "write_system_temporary": "open('/var/tmp/x', 'w')",
    "write_dev": "open('/dev/x', 'w')",
    "ipv4": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "ipv6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "netlink": "socket.socket(16, socket.SOCK_RAW)",
    "packet": "socket.socket(17, socket.SOCK_RAW)",
    "kernel_crypto": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "abstract_socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + NAME)",
    "signal_worker": "os.kill(WORKER, 0)",
    "ptrace": "call(101 if X86 else 117, 16, WORKER, 0, 0)",
    "read_memory": "call(310 if X86 else 270, WORKER, 0, 0, 0, 0, 0)",
    "worker_environment": "open(f'/proc/{WORKER}/environ').read()",
    "new_user_namespace": "call(272 if X86 else 97, 0x10000000)",
    "new_mount_namespace": "call(272 if X86 else 97, 0x00020000)",
    "clone_namespace": "call(56 if X86 else 220, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "call(435, 0, 0)",
    "mount": "call(165 if X86 else 40, 0, 0, 0, 0, 0)",
    "new_mount_api": "call(430, 0, 0)",
    "chroot": "os.chroot('.')",
    "device_node": "os.mknod('disk', 0o60600, os.makedev(8, 0))",
    "kernel_memory": "open('/dev/mem')",
    "core_pattern": "open('/proc/sys/kernel/core_pattern', 'w')",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "host_name": "socket.sethostname('x')",
    "io_uring": "call(425, 1, 0)",
    "bpf": "call(321 if X86 else 280, 0, 0, 0)",
    "keyring": "call(250 if X86 else 219, 0, 0, 0, 0, 0)",
    "symlink": "(os.symlink('/etc/hostname', 'l'), open('l').read())",
    "hard_link": "os.link('/etc/hostname', 'h')",
    "change_mode_outside": "os.chmod(OUTSIDE, 0o777)",
    "change_time_outside": "os.utime(OUTSIDE)",
    "raise_limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "memory_bomb": "bytearray(1 << 30)",
    "large_file": "os.posix_fallocate(os.open('f', os.O_CREAT | os.O_RDWR), 0, 1 << 30)",
    "more_processors": "os.sched_setaffinity(0, range(os.cpu_count()))",
    "terminal_input": "call(16 if X86 else 29, 0, 0x5412, 0)",
}
"""Each must raise OSError, ValueError or MemoryError."""

PROLOGUE = """
import ctypes, os, platform, resource, signal, socket, sys, time
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def call(*numbers):
    if libc.syscall(*map(ctypes.c_long, numbers)) < 0:
        number = ctypes.get_errno()
        assert number in (1, 38), number  # refused, not merely a wrong argument
        raise OSError(number, os.strerror(number))
"""


async def attempt(kind: str, folder: Path, code: str, **names: object) -> ExecResult:
    """Execute code in a new sandbox."""
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    try:
        box = await ctx.sandbox.create(SandboxSpec("box", memory_mib=256))
        return await box.exec("/usr/bin/python3", ["-I", "-c", PROLOGUE + given + code], timeout=90)
    finally:
        await ctx.aclose()


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_an_escape_is_refused(kind: str, folder: Path, name: str) -> None:
    outside = folder / "outside"
    outside.write_text("x")
    if OWNER is not None:
        os.chown(outside, OWNER, OWNER)
    target = subprocess.Popen(["sleep", "600"], user=OWNER, group=OWNER)
    with socket.socket(socket.AF_UNIX) as listening:
        address = f"host-{folder.name}"
        listening.bind("\0" + address)
        listening.listen()
        code = (
            f"try:\n    {REFUSED[name]}\n"
            "except (OSError, ValueError, MemoryError) as error:\n    print('refused', error)\n"
            "else:\n    print('ESCAPED')\n"
        )
        result = await attempt(
            kind, folder, code, WORKER=target.pid, NAME=address, OUTSIDE=str(outside)
        )
    assert target.poll() is None
    target.kill()
    target.wait()
    assert result.stdout.startswith("refused"), result.output
    assert outside.stat().st_mode & 0o777 != 0o777


async def test_it_is_an_unprivileged_user_with_an_own_environment(kind: str, folder: Path) -> None:
    code = "print(os.getuid() != 0, sorted(os.environ))"
    result = await attempt(kind, folder, code)
    assert result.stdout.startswith("True ["), result.output
    assert set(eval(result.stdout.partition(" ")[2])) <= {  # noqa: S307
        "HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "TMPDIR",
    }  # fmt: skip


async def test_no_descriptor_is_inherited(kind: str, folder: Path) -> None:
    with (folder / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        code = """
found = []
for number in range(3, 256):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
print(found)
"""
        result = await attempt(kind, folder, code)
    assert result.stdout == "[]\n", result.output


async def test_a_fork_bomb_is_bounded_and_ends(kind: str, folder: Path) -> None:
    code = """
started = 0
try:
    while started < 5000:
        if os.fork() == 0:
            time.sleep(600)
        started += 1
except OSError:
    pass
print(started)
"""
    result = await attempt(kind, folder, code)
    assert 0 < int(result.stdout) < 5000, result.output


async def test_files_of_bubblewrap_fill_their_own_file_system_only(folder: Path) -> None:
    code = """
for place in ("/workspace", "/tmp", "/dev/shm"):
    size = os.statvfs(place).f_blocks * os.statvfs(place).f_frsize
    assert size == 256 << 20, (place, size)
print("bounded")
"""
    result = await attempt("bubblewrap", folder, code)
    assert result.stdout == "bounded\n", result.output
