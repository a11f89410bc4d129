"""Workspaces in an object store: several workers, lost leases, unused objects, bounds."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skillfleet.contracts import WorkspaceMode
from skillfleet.errors import ObjectStoreError, SettingsError, WorkspaceBusy, WorkspaceDenied
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.workspace import WORKSPACE
from skillfleet.testing.conformance.workspace import ALL
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.desk import Attempt, Exchange
from skillfleet.workspaces.files import WorkspaceFiles
from skillfleet_adapters.workspace.object_storage import ObjectStorage
from skillfleet_adapters.workspace.object_store import ObjectStoreWorkspaces
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.runs.records import Lease
from tests.adapters.workspace.object_stores import LeasedScope, provider_of
from tests.ledger.helpers import DONE, claimed, lapse, reap, running, settings_for, touch
from tests.sdk.test_workspace_files import of_files
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyServer

MEBIBYTE = 1024 * 1024
SESSION = "session:/s"
REQUEST: dict[str, Any] = {
    "purpose": "p",
    "reason": "r",
    "hints": ["**"],
    "mode": WorkspaceMode.READ_WRITE_OVERLAY,
}


@dataclass
class Fleet:
    """A ledger and an object store; each provider is that of another machine."""

    ledger: Ledger
    url: str
    folder: Path

    def provider(self, **variables: str) -> ObjectStoreWorkspaces:
        cache = self.folder / uuid.uuid4().hex
        given = {"SKILLFLEET_ARTIFACTS_URL": self.url, "SKILLFLEET_WORKSPACE_CACHE": str(cache)}
        return provider_of(self.ledger, {**os.environ, **given, **variables})

    def storage(self, workspace: str = SESSION) -> ObjectStorage:
        """The storage of a producer on a machine of its own."""
        return self.provider().storage(workspace)

    def opened(self, lease: Lease) -> tuple[ObjectStorage, LeasedScope]:
        """The storage of an attempt on a machine of its own."""
        scope = LeasedScope(lease)
        return self.provider().open(scope), scope

    def stored(self) -> list[Path]:
        """The objects, in the folder."""
        return [path for path in (self.folder / "objects").rglob("*") if path.is_file()]


@asynccontextmanager
async def a_fleet(valkey: ValkeyServer, folder: Path, url: str = "") -> AsyncIterator[Fleet]:
    ledger = Ledger(settings_for(valkey))
    try:
        yield Fleet(ledger, url or f"file://{folder}/objects", folder)
    finally:
        await ledger.close()


@pytest.fixture
async def fleet(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with a_fleet(valkey, tmp_path) as fleet:
        yield fleet


def client_of(
    storage: ObjectStorage, scope: LeasedScope, run: str = "run-1"
) -> StoredWorkspaceClient:
    async def approve(question: str) -> bool:
        raise AssertionError(question)

    exchange = Exchange("", scope.grants, lambda _: storage)
    attempt = Attempt(run, 1, approve, scope.defer, scope.check_lease, exchange)
    return StoredWorkspaceClient(storage, ALL, attempt)


async def content(storage: ObjectStorage) -> dict[str, bytes]:
    files = storage.files
    return {info.path: await files.read(info.path) or b"" for info in await files.list()}


async def staged_and_resumed(fleet: Fleet) -> None:
    """Stage on one machine, go on and commit on another one, look at it from a third one."""
    lease = await running(fleet.ledger)
    await fleet.storage(f"run:{lease.run_id}").files.write("a.txt", b"one")
    first, scope = fleet.opened(lease)
    view = await client_of(first, scope).open_view(**REQUEST)
    await view.write("a.txt", b"two")
    await view.write("b.txt", b"b" * 3_000_000)
    await scope.record()
    # Lost with its machine: nothing was recorded after it.
    await view.write("c.txt", b"lost")
    await lapse(fleet.ledger, lease.run_id)
    await reap(fleet.ledger)
    second, scope = fleet.opened(await claimed(fleet.ledger, lease.run_id))
    view = await client_of(second, scope).open_view(**REQUEST)
    assert [(each.path, each.content) for each in await view.patches()] == [
        ("a.txt", b"two"),
        ("b.txt", b"b" * 3_000_000),
    ]
    third = fleet.storage(f"run:{lease.run_id}")
    assert await content(third) == {"a.txt": b"one"}
    assert await view.commit() == ["a.txt", "b.txt"]
    assert await content(third) == {"a.txt": b"two", "b.txt": b"b" * 3_000_000}
    assert await second.state.read(f"overlays/{view.grant.grant_id}/manifest.json") is None
    await scope.end()


async def test_an_overlay_goes_on_on_another_machine(fleet: Fleet) -> None:
    await staged_and_resumed(fleet)


@pytest.mark.xdist_group("s3")
async def test_an_overlay_goes_on_on_another_machine_with_s3(
    valkey: ValkeyServer, tmp_path: Path, minio: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in minio.variables().items():
        monkeypatch.setenv(name, value)
    async with a_fleet(valkey, tmp_path, f"{minio.url}/{uuid.uuid4()}") as fleet:
        await staged_and_resumed(fleet)
        files = WorkspaceFiles(fleet.storage())
        await files.put("large.bin", os.urandom(9 * MEBIBYTE))
        assert [len(piece) for piece in await pieces_of(fleet.storage(), "large.bin")] == [
            4 * MEBIBYTE,
            4 * MEBIBYTE,
            MEBIBYTE,
        ]


async def pieces_of(storage: ObjectStorage, path: str) -> list[bytes]:
    async with storage.files.open(path) as opened:
        assert opened is not None
        return [piece async for piece in opened.pieces]


async def test_an_attempt_that_lost_its_lease_publishes_nothing(fleet: Fleet) -> None:
    lease = await running(fleet.ledger)
    direct, scope = fleet.opened(lease)
    staging, other_scope = fleet.opened(lease)
    right = AsyncExitStack()
    await right.enter_async_context(direct.writer("attempt 1"))
    await direct.files.write("a.txt", b"1")
    await scope.record()
    await direct.files.write("a.txt", b"lost")
    await staging.state.write("grants/x", b"lost")
    await lapse(fleet.ledger, lease.run_id)
    await reap(fleet.ledger)
    await claimed(fleet.ledger, lease.run_id)
    for call in (scope.record(), other_scope.record(), right.aclose()):
        with pytest.raises(LeaseLostError):
            await call
    with pytest.raises(LeaseLostError):
        await right.enter_async_context(staging.writer("attempt 1 again"))
    await scope.end()
    await other_scope.end()
    assert await content(fleet.storage(f"run:{lease.run_id}")) == {"a.txt": b"1"}


async def test_an_attempt_that_cannot_publish_its_commit_does_not_go_on(fleet: Fleet) -> None:
    lease = await running(fleet.ledger)
    storage, scope = fleet.opened(lease)
    right = AsyncExitStack()
    await right.enter_async_context(storage.writer("attempt 1"))
    await storage.files.write("a.txt", b"1")
    await lapse(fleet.ledger, lease.run_id)
    await reap(fleet.ledger)
    with pytest.raises(LeaseLostError):
        await right.aclose()
    for call in (storage.files.list(), storage.files.write("b.txt", b""), storage.state.read("x")):
        with pytest.raises(LeaseLostError):
            await call
    await scope.end()
    assert await content(fleet.storage(f"run:{lease.run_id}")) == {}


async def test_a_producer_waits_for_a_direct_writer(fleet: Fleet) -> None:
    lease = await running(fleet.ledger)
    storage, scope = fleet.opened(lease)
    producer = fleet.storage(f"run:{lease.run_id}")
    async with storage.writer("run x, attempt 1"):
        with pytest.raises(WorkspaceBusy, match="run x, attempt 1"):
            await producer.files.write("a.txt", b"1")
        with pytest.raises(WorkspaceBusy):
            async with producer.writer("producer"):
                raise AssertionError
        assert await content(producer) == {}
    await producer.files.write("a.txt", b"1")
    assert await storage.files.read("a.txt") == b"1"
    await scope.end()


async def test_a_cancelled_wait_for_the_right_to_write_keeps_none(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, taken = fleet.ledger.workspaces.hold, asyncio.Event()

    async def without_an_answer(*args: Any) -> bool:
        await hold(*args)
        taken.set()
        await asyncio.sleep(60)
        return True

    with monkeypatch.context() as patched:
        patched.setattr(fleet.ledger.workspaces, "hold", without_an_answer)
        right = AsyncExitStack()
        waiting = asyncio.create_task(right.enter_async_context(fleet.storage().writer("one")))
        await taken.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with fleet.storage().writer("two"):
        pass


async def test_writers_at_the_same_time_lose_nothing(fleet: Fleet) -> None:
    async def write(number: int) -> None:
        await fleet.storage().files.write(f"{number}.txt", b"%d" % number)

    await asyncio.gather(*(write(number) for number in range(8)))
    assert len(await content(fleet.storage())) == 8
    results = await asyncio.gather(
        *(fleet.storage().files.write(path, b"x") for path in ("name", "NAME")),
        return_exceptions=True,
    )
    assert [type(each) for each in results if each is not None] == [WorkspaceDenied]
    assert len(await content(fleet.storage())) == 9


async def test_replaced_objects_are_deleted_and_little_used_packs_are_joined(
    fleet: Fleet,
) -> None:
    storage = fleet.storage()
    for number in range(45):
        await storage.files.write(f"{number % 40}.txt", b"%d" % number)
    names = [path.parent.name for path in fleet.stored()]
    assert sorted({*names}) == ["manifests", "packs"]
    assert names.count("manifests") == 1
    assert names.count("packs") <= 33
    assert len(await content(fleet.storage())) == 40
    for number in range(1, 40):
        await storage.files.delete(f"{number}.txt")
    assert len(fleet.stored()) == 2
    assert await content(fleet.storage()) == {"0.txt": b"40"}


async def test_unused_objects_are_swept_once_they_are_old(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await running(fleet.ledger)
    workspace = f"run:{lease.run_id}"
    provider = fleet.provider()
    await provider.storage(workspace).files.write("a.txt", b"a")
    used = set(fleet.stored())

    async def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fleet.ledger.workspaces, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            await provider.storage(workspace).files.write("b.txt", b"b")

    async def sweep(hours: float) -> set[Path]:
        await touch(fleet.ledger, "ZADD", lease.run_id, "workspaces", "XX", 1, workspace)
        now = time.time()
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda: now + hours * 3600)
            await provider.reap(lambda *_: asyncio.sleep(0, result=False))
        return set(fleet.stored())

    assert len(await sweep(0.9)) == 4
    assert await sweep(1.1) == used
    assert await content(fleet.storage(workspace)) == {"a.txt": b"a"}
    await touch(fleet.ledger, "DEL", lease.run_id, f"run:{lease.run_id}")
    assert await sweep(0.5) == used
    assert await sweep(1.1) == set()
    await sweep(1.1)
    assert await touch(fleet.ledger, "ZCARD", lease.run_id, "workspaces") == 0


async def test_grants_and_overlays_of_ended_runs_are_swept(fleet: Fleet) -> None:
    lease = await running(fleet.ledger)
    storage, scope = fleet.opened(lease)
    view = await client_of(storage, scope, lease.run_id).open_view(**REQUEST)
    await view.write("a.txt", b"staged")
    await scope.record()
    await scope.end()
    workspace = f"run:{lease.run_id}"

    async def swept() -> list[str]:
        await touch(fleet.ledger, "ZADD", lease.run_id, "workspaces", "XX", 1, workspace)
        await fleet.provider().reap(lambda *_: asyncio.sleep(0, result=False))
        return [info.path.partition("/")[0] for info in await fleet.storage(workspace).state.list()]

    assert set(await swept()) == {"grants", "overlays"}
    await fleet.ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert await swept() == []


async def test_damage_is_an_error_and_the_local_folder_is_not_needed(fleet: Fleet) -> None:
    await fleet.storage().files.write("a.txt", b"a" * 1000)
    provider = fleet.provider(SKILLFLEET_WORKSPACE_CACHE=str(fleet.folder / "cache"))
    storage = provider.storage(SESSION)
    assert await storage.files.read("a.txt") == b"a" * 1000
    (pack,) = (fleet.folder / "cache").iterdir()
    assert pack.stat().st_mode & 0o77 == 0 or pack.parent.stat().st_mode & 0o77 == 0
    for damage in (lambda: pack.write_bytes(b"b" * 1000), pack.unlink):
        damage()
        assert await storage.files.read("a.txt") == b"a" * 1000
    pack.unlink()
    (stored,) = (path for path in fleet.stored() if path.parent.name == "packs")
    stored.write_bytes(b"damaged")
    with pytest.raises(ObjectStoreError, match="cannot be read"):
        await storage.files.read("a.txt")
    stored.unlink()
    with pytest.raises(ObjectStoreError, match="does not exist"):
        await storage.files.read("a.txt")


async def test_the_local_folder_is_bounded_and_private(fleet: Fleet) -> None:
    cache = fleet.folder / "cache"
    provider = fleet.provider(
        SKILLFLEET_WORKSPACE_CACHE=str(cache), SKILLFLEET_WORKSPACE_CACHE_BYTES=str(16 * MEBIBYTE)
    )
    storage = provider.storage(SESSION)
    for number in range(3):
        await storage.files.write(f"{number}", os.urandom(8 * MEBIBYTE))
        assert sum(file.stat().st_size for file in cache.iterdir()) <= 16 * MEBIBYTE
    assert len(await storage.files.read("0") or b"") == 8 * MEBIBYTE
    moved = fleet.folder / "moved"
    cache.rename(moved)
    cache.symlink_to(moved)
    with pytest.raises(SettingsError, match="SKILLFLEET_WORKSPACE_CACHE"):
        await storage.files.write("x", b"x")


async def test_an_archive_is_published_at_once(fleet: Fleet) -> None:
    published = []
    publish = fleet.ledger.workspaces.publish

    async def counted(*args: object, **options: object) -> object:
        published.append(args)
        return await publish(*args, **options)  # type: ignore[arg-type]

    fleet.ledger.workspaces.publish = counted  # type: ignore[assignment, method-assign]
    files = {f"folder/{number}.txt": b"%d" % number for number in range(300)}
    assert len(await WorkspaceFiles(fleet.storage()).upload_tar(of_files(files))) == 300
    assert len(published) == 1
    assert await content(fleet.storage()) == files
    assert len(fleet.stored()) == 2


@pytest.mark.parametrize("variables", [{}, {"SKILLFLEET_ARTIFACTS_URL": ""}])
def test_without_an_object_store_the_error_names_its_setting(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="object_store needs SKILLFLEET_ARTIFACTS_URL"):
        load(WORKSPACE, "object_store", AdapterEnvironment(variables=variables))


def test_without_a_ledger_the_error_says_so(tmp_path: Path) -> None:
    variables = {"SKILLFLEET_ARTIFACTS_URL": f"file://{tmp_path}"}
    provider = load(WORKSPACE, "object_store", AdapterEnvironment(variables=variables))
    assert provider is not None
    with pytest.raises(SettingsError, match="needs a Ledger"):
        provider.storage("session:/s")
