"""Attacks on a workspace in a folder, and the death of processes that use it."""

import asyncio
import contextlib
import ctypes
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet.errors import WorkspaceBusy, WorkspaceDenied
from skillfleet.workspaces.commit import is_unfinished, recover
from skillfleet.workspaces.directory import (
    DirectoryStorage,
    DirectoryWorkspaces,
    OneDirectory,
    folder_name,
)
from tests.adapters.workspace import killed_commit
from tests.adapters.workspace.killed_commit import WORKSPACE, generation
from tests.support.waiting import wait_until_async

HERE = Path(__file__).parent
SECRET = b"outside of the workspace"
LOCKER = """
import asyncio, sys
from pathlib import Path
from skillfleet.workspaces.directory import DirectoryWorkspaces

async def main():
    storage = DirectoryWorkspaces(Path(sys.argv[1])).storage("session:s")
    async with storage.writer("another process"):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


class Place:
    """A workspace in a folder, and a folder outside of it."""

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_bytes(SECRET)
        self.root = folder / "files"
        self.root.mkdir()
        self.storage = DirectoryStorage(self.root, folder / "beside")
        self.files = self.storage.files

    def listed(self) -> list[str]:
        return [info.path for info in asyncio.run(self.files.list())]

    def refused(self, path: str) -> None:
        """Assert that nothing can be done with the path, and that nothing outside changes."""
        for call in (
            *(self.files.stat(path), self.files.read(path)),
            *(self.files.write(path, b"attack"), self.files.delete(path)),
        ):
            with pytest.raises(WorkspaceDenied):
                asyncio.run(call)
        self.unharmed()

    def unharmed(self) -> None:
        assert [each.name for each in self.outside.iterdir()] == ["secret.txt"]
        assert (self.outside / "secret.txt").read_bytes() == SECRET


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_links_are_refused_and_not_listed(place: Place) -> None:
    (place.root / "file").symlink_to(place.outside / "secret.txt")
    (place.root / "folder").symlink_to(place.outside)
    (place.root / "up").symlink_to("..")
    (place.root / "dangling").symlink_to(place.outside / "new.txt")
    (place.root / "inside").symlink_to("real.txt")
    (place.root / "real.txt").write_bytes(b"real")
    for path in ("file", "folder/secret.txt", "up/outside/secret.txt", "dangling", "inside"):
        place.refused(path)
    with pytest.raises(WorkspaceDenied):
        asyncio.run(place.files.write("folder/new.txt", b"attack"))
    assert place.listed() == ["real.txt"]
    place.unharmed()


def test_a_folder_that_becomes_a_link_is_refused(place: Place) -> None:
    storage = OneDirectory(place.root).storage("any")
    place.root.rmdir()
    place.root.symlink_to(place.outside)
    files = storage.files
    for call in (files.list(), files.read("secret.txt"), files.write("secret.txt", b"attack")):
        with pytest.raises(WorkspaceDenied, match="a link or no folder"):
            asyncio.run(call)
    place.unharmed()


def test_fifos_sockets_and_folders_are_refused_without_a_wait(place: Place) -> None:
    os.mkfifo(place.root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place.root / "socket"))
    (place.root / "folder").mkdir()
    for path in ("fifo", "socket", "folder", "fifo/x"):
        place.refused(path)
    assert place.listed() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_devices_are_refused(place: Place) -> None:
    with contextlib.suppress(PermissionError):
        os.mknod(place.root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
        place.refused("zero")
    assert place.listed() == []


def test_names_that_are_refused_are_not_listed(place: Place) -> None:
    for name in (b"e\xcc\x81.txt", b"\xff.txt", b"back\\slash", b"new\nline"):
        Path(os.fsdecode(os.fsencode(place.root) + b"/" + name)).write_bytes(b"x")
    (place.root / "good.txt").write_bytes(b"x")
    assert place.listed() == ["good.txt"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_write_that_fails_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    asyncio.run(place.files.write("a.txt", b"old"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="full"):
            asyncio.run(place.files.write("a.txt", b"new"))
    assert list((place.root.parent / "beside" / "scratch").iterdir()) == []
    assert asyncio.run(place.files.read("a.txt")) == b"old"


def test_a_list_that_cannot_be_complete_fails(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(place.files.write("folder/a.txt", b"x"))
    opening = os.open

    def fail(path: str | Path, *arguments: int, dir_fd: int | None = None) -> int:
        if path == "folder":
            raise OSError(errno.EMFILE, "too many open files")
        return opening(path, *arguments, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="too many"):
        place.listed()


def test_a_hard_link_is_replaced_and_its_other_name_keeps_its_content(place: Place) -> None:
    os.link(place.outside / "secret.txt", place.root / "linked.txt")
    asyncio.run(place.files.write("linked.txt", b"new"))
    assert asyncio.run(place.files.read("linked.txt")) == b"new"
    place.unharmed()


def test_a_file_keeps_its_mode(place: Place) -> None:
    script = place.root / "run.sh"
    script.write_bytes(b"old")
    script.chmod(0o4755)
    asyncio.run(place.files.write("run.sh", b"new"))
    assert script.stat().st_mode & 0o7777 == 0o755


@contextlib.contextmanager
def swapping(first: Path, second: Path) -> Iterator[None]:
    """Let a thread exchange two names, as fast as it can."""
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    names = os.fsencode(first), os.fsencode(second)
    here, flag, stop = -100, 2, threading.Event()

    def swap() -> None:
        while not stop.is_set():
            exchange(here, names[0], here, names[1], flag)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges names by a call of Linux")
@pytest.mark.parametrize("path", ["folder/secret.txt", "folder/sub/new.txt"])
def test_a_component_that_is_swapped_for_a_link_leads_nowhere(place: Place, path: str) -> None:
    (place.root / "folder").mkdir()
    (place.root / "folder" / "secret.txt").write_bytes(b"inside")
    (place.root / "link").symlink_to(place.outside)

    async def attack() -> None:
        passed = refused = 0
        while min(passed, refused) < 30:
            try:
                await place.files.write(path, b"inside")
                assert await place.files.read(path) in (b"inside", None)
                await place.files.delete(path)
                passed += 1
            except WorkspaceDenied:
                refused += 1
            assert not [i for i in await place.files.list() if i.size_bytes == len(SECRET)]

    with swapping(place.root / "folder", place.root / "link"):
        asyncio.run(attack())
    place.unharmed()


def test_folders_are_named_safely_and_distinctly() -> None:
    names = [folder_name(each) for each in ("session:/a", "session:/A", "session:/../a", "x" * 999)]
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and "/" not in name and not name.startswith(".") for name in names)


def test_another_process_holds_the_right_to_write_until_it_is_killed(tmp_path: Path) -> None:
    storage = DirectoryWorkspaces(tmp_path).storage("session:s")

    async def take() -> None:
        async with storage.writer("this test"):
            pass

    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(WorkspaceBusy, match="another process"):
            asyncio.run(take())
        process.kill()
        process.wait()
    asyncio.run(take())


async def test_a_cancelled_wait_for_the_right_to_write_does_not_keep_it(tmp_path: Path) -> None:
    storage = DirectoryWorkspaces(tmp_path).storage("session:s")

    async def take() -> None:
        async with storage.writer("the cancelled one"):
            await asyncio.sleep(600)

    async def is_free() -> bool:
        with contextlib.suppress(WorkspaceBusy):
            async with storage.writer("this test"):
                return True
        return False

    for steps in range(4):
        taking = asyncio.ensure_future(take())
        for _ in range(steps):
            await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await wait_until_async(is_free)


async def test_an_error_while_the_right_is_taken_leaves_it_free(tmp_path: Path) -> None:
    storage = DirectoryWorkspaces(tmp_path).storage("session:s")
    async with storage.writer("this test"):
        pass
    scratch = tmp_path / folder_name("session:s") / "beside" / "scratch"
    scratch.rmdir()
    scratch.touch()
    with pytest.raises(NotADirectoryError):
        async with storage.locked("this test"):
            raise AssertionError("it was taken")
    scratch.unlink()
    async with storage.writer("another"):
        pass


def test_a_killed_commit_is_completed_or_undone(tmp_path: Path) -> None:
    async def check(provider: DirectoryWorkspaces) -> tuple[bool, dict[str, bytes | None]]:
        storage = provider.storage(WORKSPACE)
        was_unfinished = await is_unfinished(storage)
        async with storage.writer("the test"):
            await recover(storage)
        files = storage.files
        return was_unfinished, {i.path: await files.read(i.path) for i in await files.list()}

    ends = []
    for writes in itertools.count(0, 9):
        directory = tmp_path / str(writes)
        command = [sys.executable, "-m", killed_commit.__name__, str(directory), str(writes)]
        ended = subprocess.run(command, cwd=HERE.parent.parent.parent, check=False)
        assert ended.returncode in (0, -signal.SIGKILL)
        was_unfinished, found = asyncio.run(check(DirectoryWorkspaces(directory)))
        assert found in (generation(1), generation(2))
        ends.append((was_unfinished, found == generation(2)))
        if ended.returncode == 0:
            break
    assert ends[0] == (False, False), "the first one is killed before its plan"
    assert (True, True) in ends, "none was killed in the middle"
    assert ends[-1] == (False, True)
