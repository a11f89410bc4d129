"""Files that producers put into workspaces and take out, and archives with tricks."""

import asyncio
import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from skillfleet.errors import InvalidArgumentsError, WorkspaceBusy, WorkspaceDenied
from skillfleet.workspaces import files as files_module
from skillfleet.workspaces.archive import ArchiveLimits, Source, read_members, unpacked
from skillfleet.workspaces.directory import DirectoryStorage
from skillfleet.workspaces.files import WorkspaceFiles
from skillfleet.workspaces.memory import MemoryStorage

MEBIBYTE = 1024 * 1024
FILES = {"a.txt": b"one", "empty": b"", "deep/" * 30 + "long name.bin": b"x" * 70_000}
LIMITS = ArchiveLimits(100, MEBIBYTE, MEBIBYTE // 2)


def packed(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def named(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


def of_files(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    return packed(*((named(path, size=len(data)), data) for path, data in files.items()), form=form)


@pytest.fixture(params=["memory", "directory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStorage | DirectoryStorage:
    if request.param == "memory":
        return MemoryStorage()
    return DirectoryStorage(tmp_path / "files", tmp_path / "beside")


@pytest.fixture
def files(storage: MemoryStorage | DirectoryStorage) -> WorkspaceFiles:
    return WorkspaceFiles(storage)


async def content(files: WorkspaceFiles) -> dict[str, bytes]:
    return {info.path: await files.get(info.path) for info in await files.list()}


async def test_files_are_put_listed_read_and_deleted(files: WorkspaceFiles) -> None:
    await files.put("b/new.txt", b"first")
    await files.put("b/new.txt", b"second")
    assert [(info.path, info.size_bytes) for info in await files.list()] == [("b/new.txt", 6)]
    assert await files.get("b/new.txt") == b"second"
    assert await files.delete("b/new.txt")
    assert not await files.delete("b/new.txt")
    with pytest.raises(FileNotFoundError, match=r"b/new\.txt"):
        await files.get("b/new.txt")


async def test_unsafe_paths_other_values_and_large_files_are_refused(
    files: WorkspaceFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("../a", "/a", "a/../b", "a\\b", ""):
        for call in (files.put(path, b""), files.get(path), files.delete(path)):
            with pytest.raises(WorkspaceDenied):
                await call
    with pytest.raises(WorkspaceDenied, match="bytes, not str"):
        await files.put("a", "text")  # type: ignore[arg-type]
    monkeypatch.setattr(files_module, "LARGEST_FILE", 3)
    with pytest.raises(WorkspaceDenied, match="more than 3"):
        await files.put("a", b"1234")
    assert await files.list() == []


async def test_a_write_waits_for_the_right_and_gives_up(
    storage: MemoryStorage | DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = WorkspaceFiles(storage)
    async with storage.writer("run r-1"):
        waiting = asyncio.create_task(files.put("a", b"1"))
        assert await files.list() == []
    await waiting
    monkeypatch.setattr(files_module, "_PATIENCE_SECONDS", 0)
    async with storage.writer("run r-1"):
        with pytest.raises(WorkspaceBusy, match="run r-1"):
            await files.put("a", b"2")
    assert await content(files) == {"a": b"1"}


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 5000):
        yield data[start : start + 5000]
        await asyncio.sleep(0)


def slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + 700] for start in range(0, len(data), 700))


@pytest.mark.parametrize("source", [bytes, io.BytesIO, in_pieces, slices])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("zipped", [False, True])
async def test_an_archive_is_taken_in_from_any_source(
    files: WorkspaceFiles, source: object, form: int, zipped: bool
) -> None:
    await files.put("stays", b"there")
    await files.put("a.txt", b"one")
    data = of_files({**FILES, "a.txt": b"one"}, form)
    given: Source = source(gzip.compress(data) if zipped else data)  # type: ignore[operator]
    changed = await files.upload_tar(given)
    assert changed == sorted(set(FILES) - {"a.txt"})
    assert await content(files) == {**FILES, "stays": b"there"}


async def test_folders_and_a_leading_dot_are_taken_as_tar_writes_them(
    files: WorkspaceFiles,
) -> None:
    folders = [(named(name, tarfile.DIRTYPE), b"") for name in (".", "./b", "c/")]
    data = packed(*folders, (named("./b/x", size=1), b"1"), (named("b/x", size=1), b"2"))
    assert await files.upload_tar(data) == ["b/x"]
    assert await content(files) == {"b/x": b"2"}


@pytest.mark.parametrize(
    "member",
    [
        named("link", tarfile.SYMTYPE, link="/etc/passwd"),
        named("hard", tarfile.LNKTYPE, link="good"),
        named("fifo", tarfile.FIFOTYPE),
        named("null", tarfile.CHRTYPE),
        named("disk", tarfile.BLKTYPE),
        named("sparse", tarfile.GNUTYPE_SPARSE),
        named("/etc/cron.d/x"),
        named("../out"),
        named("b/../../out"),
        named("b\\..\\out"),
        named("e\u0301"),
        named("GOOD"),
        named("good/below"),
        named("Kept"),
        named("kept/below"),
        named("large", size=MEBIBYTE),
    ],
    ids=lambda member: ascii(member.name),
)
async def test_a_trick_in_an_archive_refuses_it_as_a_whole(
    storage: MemoryStorage | DirectoryStorage,
    member: tarfile.TarInfo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files_module, "ArchiveLimits", lambda *_: LIMITS)
    files = WorkspaceFiles(storage)
    await files.put("kept", b"old")
    good = named("good", size=3)
    data = packed((good, b"new"), (member, b"\0" * member.size), (named("last", size=1), b"x"))
    with pytest.raises(WorkspaceDenied):
        await files.upload_tar(data)
    assert await content(files) == {"kept": b"old"}
    assert await storage.state.list() == []


async def test_limits_of_an_archive(files: WorkspaceFiles) -> None:
    data = of_files({"a": b"12", "b": b"34"})
    for limits in ({"max_files": 1}, {"max_bytes": 3}):
        with pytest.raises(WorkspaceDenied, match="more than"):
            await files.upload_tar(data, **limits)
    assert await files.list() == []
    assert await files.upload_tar(data, max_files=2, max_bytes=4) == ["a", "b"]


@pytest.mark.parametrize("zipped", [False, True])
async def test_a_cut_or_garbled_archive_is_refused(files: WorkspaceFiles, zipped: bool) -> None:
    whole = of_files({"a": b"1" * 700, "b": b"2"})
    length = 2 * 512 + 1024 + 512
    broken = [whole[:cut] for cut in (0, 100, 512, 1000, 1536, 1600, length)]
    broken += [whole[:1536] + b"\xff" * 512 + whole[2048:], b"no archive at all" * 100]
    for data in broken:
        with pytest.raises(InvalidArgumentsError, match="cannot be read"):
            await files.upload_tar(gzip.compress(data) if zipped else data)
    if zipped:
        data = gzip.compress(whole)
        for wrong in (data[:-20], data[:-8] + b"\0" * 8):
            with pytest.raises(InvalidArgumentsError, match="cannot be read"):
                await files.upload_tar(wrong)
    assert await files.list() == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_neither_a_header_nor_a_compressed_stream_takes_memory_without_a_limit(
    kind: bytes,
) -> None:
    header = named("header", kind, size=8 << 30).tobuf(tarfile.GNU_FORMAT)
    bomb = gzip.compress(header + b"\0" * (64 * MEBIBYTE))
    tracemalloc.start()
    try:
        chunks = iter([bomb])
        with pytest.raises(WorkspaceDenied, match="header"):
            list(read_members(lambda: next(chunks, b""), LIMITS))
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE
    finally:
        tracemalloc.stop()


async def test_another_value_is_no_archive(files: WorkspaceFiles, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentsError, match="not from int"):
        await files.upload_tar(1)  # type: ignore[arg-type]
    text = tmp_path / "text"
    text.write_text("text")
    with text.open() as opened, pytest.raises(InvalidArgumentsError, match="open the file"):
        await files.upload_tar(opened)  # type: ignore[arg-type]


async def test_an_error_of_the_source_is_raised_and_nothing_is_put(files: WorkspaceFiles) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield of_files({"a": b"1"})[:600]
        raise ConnectionResetError("cut")

    with pytest.raises(ConnectionResetError):
        await files.upload_tar(cut())
    assert await files.list() == []


async def test_a_cancelled_upload_leaves_its_source_and_puts_nothing(
    storage: MemoryStorage | DirectoryStorage,
) -> None:
    files, left = WorkspaceFiles(storage), asyncio.Event()
    started = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield of_files({"a": b"1"})[:1024]
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            left.set()

    upload = asyncio.create_task(files.upload_tar(stuck()))
    await started.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await asyncio.wait_for(left.wait(), 30)
    assert await files.list() == []
    assert await storage.state.list() == []


async def test_a_download_has_all_files_and_is_uploaded_again(
    files: WorkspaceFiles, tmp_path: Path
) -> None:
    for path, data in FILES.items():
        await files.put(path, data)
    pieces = [piece async for piece in files.download_tar()]
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    for path, data in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == data
    other = WorkspaceFiles(MemoryStorage())
    assert await other.upload_tar(b"".join(pieces)) == sorted(FILES)
    assert await content(other) == FILES


async def test_a_large_file_goes_out_in_pieces(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "files", tmp_path / "beside")
    files = WorkspaceFiles(storage)
    await files.put("small", b"x")
    os.truncate(tmp_path / "files" / "small", 64 * MEBIBYTE)
    tracemalloc.start()
    try:
        total = 0
        async for piece in files.download_tar():
            total += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE
    finally:
        tracemalloc.stop()
    assert total == 64 * MEBIBYTE + 3 * 512


async def test_a_file_that_shrinks_during_a_download_fails_it(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "files", tmp_path / "beside")
    files = WorkspaceFiles(storage)
    await files.put("a", b"x" * (3 * MEBIBYTE))
    pieces = files.download_tar()
    await anext(pieces)
    await anext(pieces)
    os.truncate(tmp_path / "files" / "a", MEBIBYTE)
    with pytest.raises(OSError, match="shorter"):
        async for _ in pieces:
            pass


async def test_members_are_read_one_at_a_time() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield of_files({"a": b"1", "b": b"2"})[:1024]
        raise AssertionError("the second member was read before the first was used")

    members = unpacked(endless(), LIMITS)
    assert await anext(members) == ("a", b"1")
    await members.aclose()  # type: ignore[attr-defined]
