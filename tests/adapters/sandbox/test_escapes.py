"""The escape table of docs/isolation.md: each row is an attempt from inside a sandbox."""

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import SandboxRuntimeError
from skillfleet.ports.sandbox import ExecResult, SandboxSpec
from skillfleet_adapters.sandbox.client import LocalSandbox
from skillfleet_adapters.sandbox.records import start_time
from tests.adapters.sandbox import test_views
from tests.adapters.sandbox.attempts import ATTEMPTS, WORDS, code_of, table
from tests.adapters.sandbox.conftest import KINDS, open_folder, provider_of, require, until_warm
from tests.adapters.sandbox.processes import LEAVING, processes_of
from tests.support.waiting import wait_until

OWNER = 65534 if os.geteuid() == 0 else None
"""The user of sandboxes: what other users own is refused in any case."""
OWN_TESTS = {
    "other_user",
    "environment",
    "inherited_descriptors",
    "fork_bomb",
    "disk_bomb",
    "background_processes",
    "supervisor_killed",
}
"""The rows that have a test of their own, `test_<row>`."""
OVERLAY_TESTS = {
    "overlay_link",
    "overlay_replaced_by_link",
    "overlay_folder_replaced",
    "overlay_hard_link",
    "overlay_refused_file",
}
"""The rows that have a test in `test_views`."""
IPC_CREAT, IPC_RMID = 0o1000, 0

Execute = Callable[..., Coroutine[Any, Any, list[ExecResult]]]

pytestmark = pytest.mark.xdist_group("sandbox-escapes")
libc = ctypes.CDLL(None)


def test_the_table_has_a_row_for_each_attempt_and_a_test_for_each_row() -> None:
    assert set(table()) == set(ATTEMPTS) | OWN_TESTS | OVERLAY_TESTS
    assert set(globals()) >= {f"test_{name}" for name in OWN_TESTS}
    assert set(vars(test_views)) >= {f"test_{name}" for name in OVERLAY_TESTS}


async def execute_warm(kind: str, folder: Path, *programs: str) -> list[ExecResult]:
    """Execute Python programs in a sandbox that was started before, as `run_python` does."""
    provider = provider_of(kind, folder, SKILLFLEET_SANDBOX_WARM="1")
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
    try:
        await ctx.sandbox.run_shell("true")
        await until_warm(provider)
        box = await ctx.sandbox.create(SandboxSpec("box"))
        assert isinstance(box, LocalSandbox)
        return [await box.execute(["python", program], 90) for program in programs]
    finally:
        await ctx.aclose()
        await provider.aclose()


async def execute(kind: str, folder: Path, *programs: str) -> list[ExecResult]:
    """Execute Python programs in a new sandbox."""
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    try:
        box = await ctx.sandbox.create(SandboxSpec("box", memory_mib=256))
        return [
            await box.exec("python3", ["-I", "-c", program], timeout=90) for program in programs
        ]
    finally:
        await ctx.aclose()


def attempt_all(kind: str, folder: Path, execute: Execute = execute) -> dict[str, str]:
    """Make all attempts in a sandbox, on a process, sockets and files of the same user."""
    outside = folder / "outside"
    outside.write_text("x")
    if OWNER is not None:
        os.chown(outside, OWNER, OWNER)
    outside.chmod(0o644)
    with ExitStack() as stack:
        target = subprocess.Popen(["sleep", "600"], user=OWNER, group=OWNER)
        stack.callback(target.wait)
        stack.callback(target.kill)
        abstract, path = f"\0host-{folder.name}", str(folder / "socket")
        for address in (abstract, path):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        (folder / "socket").chmod(0o777)
        key = os.getpid() + 1
        segment = libc.shmget(key, 4096, IPC_CREAT | 0o666)
        stack.callback(libc.shmctl, segment, IPC_RMID, None)
        names = {"WORKER": target.pid, "NAME": abstract[1:], "SOCKET": path, "KEY": key}
        names |= {"SEGMENT": segment}
        given = "".join(
            f"{name} = {value!r}\n" for name, value in (names | {"OUTSIDE": str(outside)}).items()
        )
        results = asyncio.run(execute(kind, folder, *(given + code_of(name) for name in ATTEMPTS)))
        assert target.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, target.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert outside.stat().st_mode & 0o777 == 0o644
    return {name: result.output.strip() for name, result in zip(ATTEMPTS, results, strict=True)}


@pytest.fixture(scope="module", params=KINDS)
def outcomes(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """Return the outcome of each attempt in a sandbox of each kind."""
    kind: str = request.param
    require(kind)
    with open_folder() as folder:
        return kind, attempt_all(kind, folder)


@pytest.mark.parametrize("name", sorted(ATTEMPTS))
def test_an_escape_ends_as_the_table_says(outcomes: tuple[str, dict[str, str]], name: str) -> None:
    kind, found = outcomes
    assert WORDS.get(found[name], found[name]) in table()[name][kind].split(" or ")


def test_escapes_from_a_warm_sandbox_end_as_the_table_says(kind: str) -> None:
    with open_folder() as folder:
        found = attempt_all(kind, folder, execute_warm)
    assert {
        name: outcome
        for name, outcome in found.items()
        if WORDS.get(outcome, outcome) not in table()[name][kind].split(" or ")
    } == {}


async def test_other_user(kind: str, folder: Path) -> None:
    (result,) = await execute(kind, folder, "import os; print(os.getuid(), os.getgroups())")
    uid, _, groups = result.stdout.partition(" ")
    assert int(uid) == (OWNER or os.getuid()), result.output
    assert OWNER is None or set(json.loads(groups)) <= {OWNER}


async def test_environment(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "of the worker")
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    (result,) = await execute(kind, folder, program)
    once = await ctx.sandbox.run_python(program)
    await ctx.aclose()
    for each in (result, once):
        assert set(json.loads(each.stdout)) - {"LC_CTYPE", "PWD"} == {
            *("HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR"),
        }


async def test_inherited_descriptors(kind: str, folder: Path) -> None:
    program = """
import os
found = []
for number in range(3, 5000):
    try:
        found.append((number, os.fstat(number)))
    except OSError:
        pass
print(found)
"""
    with (folder / "secret").open("w") as secret:
        high = os.dup2(secret.fileno(), 3000)
        ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
        (result,) = await execute(kind, folder, program)
        once = await ctx.sandbox.run_python(program)
        await ctx.aclose()
        os.close(high)
    assert (result.stdout, once.stdout) == ("[]\n", "[]\n"), result.output + once.output


async def test_fork_bomb(kind: str, folder: Path) -> None:
    program = """
import os, time
started = 0
try:
    while started < 5000:
        if os.fork() == 0:
            time.sleep(86391)
        started += 1
except OSError:
    pass
print(started)
"""
    (result,) = await execute(kind, folder, program)
    assert 0 < int(result.stdout) < 5000, result.output


async def test_disk_bomb(kind: str, folder: Path) -> None:
    program = """
import errno, os
for place in (os.getcwd(), os.environ["TMPDIR"], "/dev/shm"):
    names = [os.path.join(place, f"part-{number}") for number in range(6)]
    written = 0
    try:
        for name in names:
            with open(name, "wb", 0) as file:
                for _ in range(64):
                    written += file.write(bytes(1 << 20))
    except OSError as error:
        print(errno.errorcode[error.errno], written >> 20)
    else:
        print("FULL", written >> 20)
    for name in names:
        if os.path.exists(name):
            os.unlink(name)
"""
    (result,) = await execute(kind, folder, program)
    lines = [line.split() for line in result.stdout.splitlines()]
    if kind == "bubblewrap":
        assert [error for error, _ in lines] == ["ENOSPC"] * 3, result.output
        assert all(200 < int(written) <= 256 for _, written in lines)
    else:
        # As the page says: only the size of each file is bounded.
        assert lines == [["FULL", "384"], ["FULL", "384"], ["EACCES", "0"]], result.output


async def test_background_processes(kind: str, folder: Path, number: int) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    box = await ctx.sandbox.create(SandboxSpec("box"))
    marked = LEAVING.replace("sleep {number} &", "touch started-$$; sleep {number} &")
    wait = "until [ $(ls -d started-* 2>/dev/null | wc -l) = 3 ]; do sleep 0.01; done"
    result = await box.shell(marked.format(number=number) + wait, timeout=60)
    # The command's end does not wait for those that hold its output open.
    assert result.output.startswith("started\n")
    assert processes_of("sleep", number) == []
    await ctx.aclose()


async def test_supervisor_killed(kind: str, folder: Path, number: int) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    for victim in range(2 if kind == "landlock" else 1):
        box = await ctx.sandbox.create(SandboxSpec(f"box-{victim}"))
        script = LEAVING.format(number=number) + f"sleep {number}"
        command = asyncio.ensure_future(box.shell(script))
        await asyncio.to_thread(
            wait_until, lambda: len(processes_of("sleep", number)) == 6, what="the processes"
        )
        os.kill(_supervisors(folder)[victim], signal.SIGKILL)
        with pytest.raises(SandboxRuntimeError, match="the sandbox has ended"):
            await command
        wait_until(lambda: not processes_of("sleep", number), what="the end of all processes")
    await ctx.aclose()


def _supervisors(folder: Path) -> list[int]:
    """Return the processes of the only sandbox in this folder: with Landlock two, outer first."""
    found = []
    for path in (folder / "records").glob("*.json"):
        pid = json.loads(path.read_text())["pid"]
        if start_time(pid):
            found.append(pid)
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found
