"""Overlays: which contents they keep, and for how long."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from skillfleet.ports.workspace import FileStore, WorkspaceStorage, WorkspaceView
from skillfleet.testing.conformance.workspace import (
    OVERLAY,
    Desk,
    DyingFiles,
    DyingStorage,
    KilledProcess,
)
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.commit import recover
from skillfleet.workspaces.memory import MemoryWorkspaces

MEBIBYTE = 1 << 20


async def opened(client: StoredWorkspaceClient) -> WorkspaceView:
    grant = await client.request_access(files=["**"], mode=OVERLAY, reason="tests")
    return await client.view(grant)


async def kept(desk: Desk) -> int:
    """The size of all overlays."""
    found = await desk.storage.state.list()
    return sum(each.size_bytes for each in found if each.path.startswith("overlays/"))


async def test_a_content_that_was_replaced_is_not_kept() -> None:
    desk = Desk(MemoryWorkspaces({"a": b"old"}))
    view = await opened(desk.client())
    await view.write("same", b"0" * MEBIBYTE)
    for number in range(10):
        await view.write("a", str(number).encode() * MEBIBYTE)
    assert 2 * MEBIBYTE < await kept(desk) < 2 * MEBIBYTE + 1000
    await view.write("a", b"0" * MEBIBYTE)
    await view.write("a", b"old")
    assert MEBIBYTE < await kept(desk) < MEBIBYTE + 1000
    await view.delete("same")
    assert await kept(desk) < 1000
    await view.write("a", b"1")
    assert [each.content for each in await view.patches()] == [b"1"]
    assert await view.commit() == ["a"]


async def test_a_read_finds_a_content_while_a_write_replaces_it() -> None:
    desk = Desk(MemoryWorkspaces())
    view = await opened(desk.client(storage=SlowStorage(desk.storage)))
    await view.write("a", b"0")
    for number in range(1, 6):
        found, patches, _ = await asyncio.gather(
            view.read("a"), view.patches(), view.write("a", str(number).encode())
        )
        assert int(found) in (number - 1, number)
        assert [each.path for each in patches] == ["a"]


async def test_an_attempt_keeps_what_a_later_one_has_taken_over_during_its_write() -> None:
    desk = Desk(MemoryWorkspaces())
    storage = HookedStorage(desk.storage)
    first = await opened(desk.client(storage=storage))
    await first.write("a", b"taken over")
    later: list[WorkspaceView] = []

    async def take_over() -> None:
        later.append(await opened(desk.client(number=2)))

    storage.before_manifest = take_over
    await first.write("a", b"late")
    assert [each.content for each in await later[0].patches()] == [b"taken over"]
    assert await later[0].commit() == ["a"]
    assert await desk.content() == {"a": b"taken over"}


@pytest.mark.parametrize("steps", range(1, 5))
async def test_what_an_unfinished_commit_needs_is_kept(steps: int) -> None:
    before, after = {"a": b"1", "b": b"2"}, {"a": b"new 1", "b": b"new 2"}
    desk = Desk(MemoryWorkspaces(before))
    storage = DyingStorage(desk.storage)
    view = await opened(desk.client(storage=storage))
    for path, data in after.items():
        await view.write(path, data)
    storage.left = 2 + steps
    with pytest.raises(KilledProcess):
        await view.commit()
    storage.left = None
    for path in after:
        await view.write(path, b"later")
    await recover(desk.storage)
    assert await desk.content() in (before, after)


class SlowFiles(DyingFiles):
    """A store in which a content is read for longer than a manifest."""

    async def read(self, path: str) -> bytes | None:
        for _ in range(1 if path.endswith(("/manifest.json", "/owner")) else 10):
            await asyncio.sleep(0)
        return await super().read(path)


class SlowStorage(DyingStorage):
    """A storage in which a write may end while another task reads a content."""

    @property
    def state(self) -> FileStore:
        return SlowFiles(self._storage.state, self)


class HookedFiles(DyingFiles):
    """A store in which something happens before a manifest is written."""

    def __init__(self, store: FileStore, storage: "HookedStorage") -> None:
        super().__init__(store, storage)
        self._hooks = storage

    async def write(self, path: str, data: bytes) -> None:
        hook = self._hooks.before_manifest
        if hook is not None and path.endswith("/manifest.json"):
            self._hooks.before_manifest = None
            await hook()
        await super().write(path, data)


class HookedStorage(DyingStorage):
    """A storage in which something happens before the next manifest is written."""

    def __init__(self, storage: WorkspaceStorage) -> None:
        super().__init__(storage)
        self.before_manifest: Callable[[], Awaitable[None]] | None = None

    @property
    def state(self) -> FileStore:
        return HookedFiles(self._storage.state, self)
