"""The adapter `archive`: fidelity, increments, attacks on a restore, sweeps beside creates."""

import asyncio
import ctypes
import errno
import filecmp
import json
import os
import shutil
import socket
import stat
import tempfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillfleet.errors import CheckpointError, SettingsError
from skillfleet.ports.checkpoint import CheckpointClient
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.testing.conformance import CheckpointSuite
from skillfleet.testing.conformance.checkpoint import state
from skillfleet_adapters.checkpoint import archive
from skillfleet_adapters.checkpoint.archive import ArchiveClient
from skillfleet_adapters.checkpoint.repository import Index, Repository
from skillfleet_adapters.checkpoint.restoration import Restoration
from skillfleet_adapters.checkpoint.snapshot import Previous
from skillfleet_adapters.checkpoint.tree import Entry, Tree, checked, decode_rows
from skillfleet_adapters.checkpoint.zstandard import compress
from tests.adapters.checkpoint.helpers import MEBIBYTE, OLD, entries, found, packs, store_in


def age(folder: Path) -> None:
    """Wait until the files are old enough to be taken from the previous checkpoint."""
    newest = max(path.lstat().st_ctime for path in folder.rglob("*"))
    time.sleep(max(0, newest + 2.05 - time.time()))


class TestArchive(CheckpointSuite):
    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self._url = f"file://{tmp_path}/store"

    def client(self) -> CheckpointClient:
        variables = {"SKILLFLEET_CHECKPOINTS_URL": self._url}
        return archive.create(AdapterEnvironment(variables=variables)).client()


def test_settings() -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_CHECKPOINTS_URL"):
        archive.create(AdapterEnvironment())


async def test_below_the_artifacts_by_default(tmp_path: Path, folder: Path) -> None:
    variables = {"SKILLFLEET_ARTIFACTS_URL": f"file://{tmp_path}/objects/"}
    made = archive.create(AdapterEnvironment(variables=variables))
    await made.client().create(folder)
    assert packs(tmp_path / "objects" / "checkpoints")


async def test_special_files(client: ArchiveClient, folder: Path, tmp_path: Path) -> None:
    os.link(folder / "a", folder / "sub" / "hard")
    os.mkfifo(folder / "fifo", 0o640)
    with (folder / "sparse").open("wb") as file:
        file.truncate(64 * MEBIBYTE)
        file.seek(32 * MEBIBYTE)
        file.write(b"x" * 4096)
    (folder / "n\udcff\u2603").write_text("name")
    (folder / "sub").chmod(0o550)
    (folder / "a").chmod(0o4755)
    (folder / "link").symlink_to("a")
    os.utime(folder / "link", ns=(OLD, OLD), follow_symlinks=False)
    skipped = ["sock"]
    with suppress(PermissionError):
        os.mknod(folder / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        skipped.insert(0, "null")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "sock"))
    made = await client.create(folder)
    assert list(made.skipped) == skipped
    out = tmp_path / "out"
    await client.restore(folder, made.id, into=out)
    expected = state(folder)
    for name in skipped:
        del expected[name]
    assert state(out) == expected
    assert (out / "link").lstat().st_mtime_ns == OLD
    assert (out / "a").stat().st_ino == (out / "sub" / "hard").stat().st_ino
    assert stat.S_ISFIFO((out / "fifo").lstat().st_mode)
    assert (out / "sparse").stat().st_blocks * 512 < MEBIBYTE


async def test_the_same_tree_is_the_same_manifest(
    client: ArchiveClient, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    first = await client.create_head(folder)
    again = await client.create_head(folder)
    copied = await client.create_head(tmp_path / "copy")
    assert first.manifest == again.manifest == copied.manifest
    (folder / "a").write_text("other")
    assert (await client.create_head(folder)).manifest != first.manifest


async def test_unchanged_files_are_not_stored_again(
    client: ArchiveClient, folder: Path, store: Path
) -> None:
    for number in range(20):
        (folder / f"big{number}").write_bytes(os.urandom(100_000))
    await client.create(folder)
    before = packs(store)
    (folder / "big7").write_bytes(os.urandom(1000))
    second = await client.create(folder)
    (new,) = packs(store) - before
    assert found(store, f"*/packs/{new}")[0].stat().st_size < 2000
    wanted = state(folder)
    await client.restore(folder, second.id)
    assert state(folder) == wanted


async def test_unchanged_files_are_not_read_again(
    client: ArchiveClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(folder)
    await client.create(folder)
    opened = []
    pread = os.pread

    def counted(*arguments: Any) -> bytes:
        opened.append(arguments)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", counted)
    await client.create(folder)
    assert opened == []
    (folder / "a").write_text("other")
    await client.create(folder)
    assert len(opened) == 1


async def test_a_young_file_with_the_same_status_is_read_again(
    client: ArchiveClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create(folder)
    opened = []
    pread = os.pread

    def counted(*arguments: Any) -> bytes:
        opened.append(arguments)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", counted)
    await client.create(folder)
    assert len(opened) == 2


NOW = 1_700_000_000_000_000_000
BEFORE = NOW - 10_000_000_000
STATUS = {"st_mode": 0o100644, "st_mtime_ns": BEFORE, "st_size": 3, "st_ctime_ns": BEFORE}


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({}, True),
        ({"st_mode": 0o100600}, False),
        ({"st_mtime_ns": BEFORE - 1}, False),
        ({"st_size": 4}, False),
        ({"st_ctime_ns": BEFORE - 1}, False),
        ({"st_ino": 8}, False),
    ],
)
def test_a_file_is_known_by_mode_times_size_and_inode(changed: dict[str, int], known: bool) -> None:
    row = ["f", "a", 0o644, BEFORE, 3, 0, 3, "d"]
    previous = Previous.of([row], Index([("p", 3)], [(0, 0)], [(BEFORE, 7)], NOW))
    status: Any = SimpleNamespace(**(STATUS | {"st_ino": 7} | changed))
    assert previous.unchanged("a", status) == (row if known else None)
    assert previous.unchanged("b", status) is None


def test_an_index_of_another_tree_is_refused() -> None:
    row = ["f", "a", 0o644, BEFORE, 3, 0, 3, "d"]
    for index in (Index([], [], [(BEFORE, 7)], NOW), Index([("p", 3)], [(0, 0)], [], NOW)):
        with pytest.raises(CheckpointError, match="does not fit"):
            Previous.of([row], index)


async def test_a_restore_that_fails_leaves_the_folder(
    client: ArchiveClient, folder: Path, store: Path, tmp_path: Path
) -> None:
    made = await client.create(folder)
    (folder / "a").write_text("later")
    before = state(folder)
    (pack,) = found(store, "*/packs/*")
    data = pack.read_bytes()
    pack.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="digest"):
        await client.restore(folder, made.id)
    pack.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        await client.restore(folder, made.id)
    assert state(folder) == before
    assert entries(tmp_path) == ["store", "work"]


async def test_a_restore_into_a_symlink_or_file_is_refused(
    client: ArchiveClient, folder: Path, tmp_path: Path
) -> None:
    made = await client.create(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    (tmp_path / "file").write_text("x")
    for name in ("link", "file"):
        with pytest.raises(CheckpointError, match="not a folder"):
            await client.restore(folder, made.id, into=tmp_path / name)
    assert entries(tmp_path / "other") == []


async def test_a_folder_that_is_a_symlink_is_not_read(
    client: ArchiveClient, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CheckpointError, match="cannot open"):
        await client.create(tmp_path / "link")


FOLDER = ["d", "", 0o755, 0]
LINK = ["l", "link", 0o777, 0, "/tmp"]


def _file(path: str) -> list[Any]:
    return ["f", path, 0o644, 0, 0]


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param([FOLDER, _file("../escaped")], id="parent"),
        pytest.param([FOLDER, ["d", "..", 0o755, 0], _file("../escaped")], id="parent entry"),
        pytest.param([FOLDER, _file("/escaped")], id="absolute"),
        pytest.param([FOLDER, _file("a/./b")], id="dot"),
        pytest.param([FOLDER, _file("a\0b")], id="null byte"),
        pytest.param([FOLDER, LINK, _file("link/escaped")], id="symlink as a component"),
        pytest.param([FOLDER, LINK, ["d", "link", 0o755, 0], _file("link/x")], id="twice"),
        pytest.param([FOLDER, _file("missing/x")], id="no parent"),
        pytest.param([_file("x")], id="no folder"),
        pytest.param([FOLDER, ["h", "x", "../../etc/passwd"]], id="hard link outside"),
        pytest.param([FOLDER, LINK, ["h", "x", "link"]], id="hard link to a symlink"),
        pytest.param([FOLDER, ["b", "device", 0o644, 0]], id="device"),
        pytest.param([FOLDER, ["f", None, 0o644, 0, 0]], id="no path"),
        pytest.param([FOLDER, ["f", "x", 0o644, 0, 9, 0, 3]], id="half a chunk"),
        pytest.param([FOLDER, 7], id="no row"),
        pytest.param({"a": 1}, id="no list"),
        pytest.param([FOLDER, ["f", "x", 0o644, 0, 3, 0, 9, "0" * 64]], id="beyond the end"),
        pytest.param([FOLDER, ["f", "x", 0o644, 0, 9, -1, 3, "0" * 64]], id="negative offset"),
    ],
)
async def test_a_hostile_tree_is_refused(
    client: ArchiveClient, folder: Path, store: Path, tmp_path: Path, tree: list[list[Any]]
) -> None:
    data = json.dumps(tree).encode()
    with pytest.raises(CheckpointError):
        checked(decode_rows(data))
    kept = Repository(store_in(store), folder)
    head = await client.create_head(folder)
    async with kept.announced("create") as call:
        key = await kept.put("trees", compress(data), call)
        index = await kept.put_index(Index([], [], [], 0), call)
        forged = await kept.publish(head.checkpoint, key, index, call)
    before = state(folder)
    with pytest.raises(CheckpointError):
        await client.restore(folder, forged.checkpoint.id)
    assert state(folder) == before
    assert entries(tmp_path) == ["store", "work"]


@pytest.mark.parametrize("kind", ["heads", "trees", "indexes", "packs"])
async def test_a_changed_object_is_refused(
    client: ArchiveClient, folder: Path, store: Path, kind: str
) -> None:
    made = await client.create(folder)
    (changed,) = found(store, f"*/{kind}/*")
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="digest"):
        await client.restore(folder, made.id)


async def test_deleting_all_leaves_no_object(
    client: ArchiveClient, folder: Path, store: Path
) -> None:
    made = [await client.create(folder)]
    (folder / "a").write_text("later")
    made.append(await client.create(folder))
    before = packs(store)
    await client.delete(folder, made[1].id)
    assert len(packs(store)) == len(before) - 1
    await client.delete(folder, made[0].id)
    assert found(store) == []


async def test_a_folder_is_exchanged_where_the_system_has_no_call_for_it(
    client: ArchiveClient, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await client.create(folder)
    before = state(folder)
    (folder / "a").write_text("later")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    await client.restore(folder, made.id)
    assert state(folder) == before
    assert entries(tmp_path) == ["store", "work"]


async def test_an_exchange_that_fails_half_way_is_undone(
    client: ArchiveClient, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await client.create(folder)
    (folder / "a").write_text("later")
    before = state(folder)
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if target == folder and not path.name.endswith("-old"):
            raise PermissionError(errno.EPERM, "not permitted")
        return rename(path, target)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="not permitted"):
        await client.restore(folder, made.id)
    assert state(folder) == before
    assert entries(tmp_path) == ["store", "work"]


async def test_a_symlink_that_appears_during_the_reading_is_not_followed(
    client: ArchiveClient, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "b").write_text("secret")
    opened = os.open

    def swapped(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "sub":
            (folder / "sub").rename(tmp_path / "moved")
            (folder / "sub").symlink_to(tmp_path / "private")
        if path == "a":
            (folder / "a").unlink()
            (folder / "a").symlink_to(tmp_path / "private" / "b")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", swapped)
    made = await client.create(folder)
    monkeypatch.undo()
    await client.restore(folder, made.id, into=tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")] == [
        "sub"
    ]


def test_a_restoration_follows_no_symlink_of_the_new_folder(tmp_path: Path) -> None:
    """The second guard, should an unchecked tree ever reach it."""
    new, outside = tmp_path / "new", tmp_path / "outside"
    for path in (new, outside):
        path.mkdir()
    (new / "link").symlink_to(outside)
    (new / "file").symlink_to(outside / "file")
    root = os.open(new, os.O_RDONLY)
    try:
        for name in ("link/below", "file"):
            entry = Entry(name, "f", 0o644, size=1)
            parent = name.rpartition("/")[0]
            with pytest.raises(OSError, match=r"level|directory"):
                Restoration(Tree([entry]), root).write(
                    parent, [(entry, [(0, memoryview(b"x"))], True)]
                )
            with pytest.raises(OSError, match=r"level|directory"):
                Restoration(Tree([entry]), root).finish(lambda _: False)
    finally:
        os.close(root)
    assert entries(outside) == []


async def test_memory_is_bounded(store: Path, folder: Path, tmp_path: Path) -> None:
    client = ArchiveClient(store_in(store))
    with (folder / "huge").open("wb") as file:
        for _ in range(20):
            file.write(os.urandom(10 * MEBIBYTE))
    tracemalloc.start()
    try:
        made = await client.create(folder)
        await client.restore(folder, made.id, into=tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert filecmp.cmp(folder / "huge", tmp_path / "out" / "huge", shallow=False)
    assert peak < 120 * MEBIBYTE


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in {".", ".."})
CONTENT = st.one_of(
    st.binary(max_size=300),
    st.integers(1, 6 * MEBIBYTE).map(lambda size: os.urandom(1) * size),
)
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o400, 0o444])
NODES = st.recursive(
    st.one_of(
        st.tuples(st.just("file"), CONTENT, MODES),
        st.tuples(st.just("link"), NAMES),
        st.tuples(st.just("hole"), st.integers(1, 3 * MEBIBYTE)),
    ),
    lambda below: st.dictionaries(NAMES, below, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(NAMES, NODES, max_size=5)


def build(folder: Path, tree: Any) -> None:
    folder.mkdir()
    for name, node in tree.items():
        path = folder / name
        if isinstance(node, dict):
            build(path, node)
        elif node[0] == "file":
            path.write_bytes(node[1])
            path.chmod(node[2])
        elif node[0] == "link":
            path.symlink_to(node[1])
        else:
            with path.open("wb") as file:
                file.truncate(node[1])


@settings(max_examples=15, deadline=None)
@given(first=TREES, second=TREES)
def test_any_two_trees_are_restored(first: Any, second: Any) -> None:
    async def use(base: Path) -> None:
        client = ArchiveClient(store_in(base / "store"))
        build(base / "work", first)
        states, made = [state(base / "work")], [await client.create(base / "work")]
        shutil.rmtree(base / "work")
        build(base / "work", second)
        states.append(state(base / "work"))
        made.append(await client.create(base / "work"))
        for expected, checkpoint in zip(states, made, strict=True):
            await client.restore(base / "work", checkpoint.id)
            assert state(base / "work") == expected
            assert list(await client.diff(base / "work", checkpoint.id)) == []

    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(use(Path(temporary)))
