"""The adapter `archive`: creates, sweeps and restores beside each other, cancelled or killed."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from skillfleet.errors import CheckpointError
from skillfleet.testing.conformance.checkpoint import state
from skillfleet_adapters.checkpoint.archive import ArchiveClient
from skillfleet_adapters.checkpoint.repository import LIFETIMES, Repository
from skillfleet_adapters.objects.stores import CloudStore, ObjectStoreSettings
from tests.adapters.checkpoint.helpers import MEBIBYTE, entries, found, packs, store_in


class Gated(CloudStore):
    """A store in a folder whose first call of one kind, for a key with `part`, waits."""

    def __init__(self, store: Path, action: str, part: str) -> None:
        super().__init__(f"file://{store}", ObjectStoreSettings.load({}), allow_http=False)
        self._waits_for = (action, part)
        self.reached, self.proceed = asyncio.Event(), asyncio.Event()

    async def _gate(self, action: str, key: str) -> None:
        if action == self._waits_for[0] and self._waits_for[1] in key:
            self.reached.set()
            await self.proceed.wait()

    async def write(self, key: str, data: Any) -> None:
        await self._gate("write", key)
        await super().write(key, data)
        await self._gate("written", key)

    async def keys(self, folder: str) -> AsyncIterator[str]:
        await self._gate("list", folder)
        async for key in super().keys(folder):
            yield key


async def test_a_sweep_beside_a_create_takes_nothing_of_it(
    client: ArchiveClient, store: Path, folder: Path, tmp_path: Path
) -> None:
    """A create that has read its parent builds on it although the parent is deleted meanwhile."""
    first = await client.create(folder)
    (folder / "a").write_text("later")
    gated = Gated(store, "write", "/trees/")
    creating = asyncio.create_task(ArchiveClient(gated).create(folder))
    await gated.reached.wait()
    await client.delete(folder, first.id)
    gated.proceed.set()
    made = await creating
    assert made.parent == first.id
    await client.restore(folder, made.id, into=tmp_path / "out")
    assert state(tmp_path / "out") == state(folder)
    # What the sweep left goes with the next one.
    await client.delete(folder, made.id)
    assert found(store) == []


async def test_a_create_beside_a_sweep_builds_upon_nothing(
    client: ArchiveClient, store: Path, folder: Path, tmp_path: Path
) -> None:
    """The sweep has seen no create, and does not see the parent that is deleted before it looks."""
    first = await client.create(folder)
    second = await client.create(folder)
    sweep = Gated(store, "list", "/heads")
    deleting = asyncio.create_task(ArchiveClient(sweep).delete(folder, first.id))
    await sweep.reached.wait()
    create = Gated(store, "write", "/trees/")
    creating = asyncio.create_task(ArchiveClient(create).create(folder))
    await create.reached.wait()
    await Repository(store_in(store), folder).remove(second.id)
    sweep.proceed.set()
    await deleting
    create.proceed.set()
    made = await creating
    await client.restore(folder, made.id, into=tmp_path / "out")
    assert state(tmp_path / "out") == state(folder)


async def test_the_announcement_of_a_killed_create_expires(
    client: ArchiveClient, folder: Path, store: Path
) -> None:
    kept = Repository(store_in(store), folder)
    killed = kept.announced("create")
    await killed.__aenter__()
    made = await client.create(folder)
    await client.delete(folder, made.id)
    assert packs(store)
    (call,) = found(store, "*/calls/*")
    kind, seconds, name = call.name.split("-")
    old = int(seconds) - int(LIFETIMES["create"].total_seconds()) - 1
    call.rename(call.with_name(f"{kind}-{old}-{name}"))
    assert await kept.sweep() > 0
    assert found(store) == []


async def test_a_create_that_takes_too_long_is_not_published(
    client: ArchiveClient, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its content could be swept, as its announcement has expired."""
    monkeypatch.setitem(LIFETIMES, "create", timedelta())
    with pytest.raises(CheckpointError, match="too long"):
        await client.create(folder)
    assert list(await client.list(folder)) == []


async def test_a_damaged_checkpoint_hinders_no_other(
    client: ArchiveClient, folder: Path, store: Path, tmp_path: Path
) -> None:
    broken = await client.create(folder)
    (index,) = found(store, "*/indexes/*")
    index.write_bytes(b"damaged")
    made = await client.create(folder)
    assert made.parent is None
    (head,) = found(store, f"*/heads/{broken.id}")
    head.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="delete it"):
        await client.list(folder)
    await client.delete(folder, broken.id)
    await client.restore(folder, made.id, into=tmp_path / "out")
    assert state(tmp_path / "out") == state(folder)


@pytest.mark.parametrize(
    ("action", "part"), [("write", "/packs/"), ("write", "/trees/"), ("written", "/heads/")]
)
async def test_a_cancelled_create_leaves_no_checkpoint(
    client: ArchiveClient, store: Path, folder: Path, action: str, part: str
) -> None:
    for number in range(4):
        (folder / f"big{number}").write_bytes(os.urandom(9 * MEBIBYTE))
    gated = Gated(store, action, part)
    creating = asyncio.create_task(ArchiveClient(gated).create(folder))
    await gated.reached.wait()
    creating.cancel()
    asyncio.get_running_loop().call_later(0.05, gated.proceed.set)
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert list(await client.list(folder)) == []
    assert found(store, "*/calls/*") == []


async def test_a_cancelled_restore_leaves_the_folder(
    client: ArchiveClient, store: Path, folder: Path, tmp_path: Path
) -> None:
    made = await client.create(folder)
    (folder / "a").write_text("later")
    before = state(folder)
    reached, proceed = asyncio.Event(), asyncio.Event()

    class Slow(CloudStore):
        async def read(self, key: str) -> AsyncIterator[bytes]:
            if "/packs/" in key:
                reached.set()
                await proceed.wait()
            async for piece in super().read(key):
                yield piece

    slow = ArchiveClient(Slow(f"file://{store}", ObjectStoreSettings.load({}), allow_http=False))
    restoring = asyncio.create_task(slow.restore(folder, made.id))
    await reached.wait()
    assert len(entries(tmp_path)) == 3
    restoring.cancel()
    asyncio.get_running_loop().call_later(0.05, proceed.set)
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert state(folder) == before
    assert entries(tmp_path) == ["store", "work"]
