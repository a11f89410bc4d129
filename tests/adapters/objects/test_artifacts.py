"""Artifacts and recorded values in an object store: commit, limits, sweep, faults."""

import asyncio
import hashlib
import tracemalloc
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skillfleet.errors import (
    ArtifactTooLargeError,
    CapabilityUnavailableError,
    LimitExceededError,
    ObjectStoreError,
    SettingsError,
    UnknownArtifactError,
)
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.settings import MEBIBYTE
from tests.ledger.helpers import DONE, claimed, lapse, reap, running, settings_for
from tests.support.proxy import Proxy
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

TEXT = "text/plain"
LARGE = bytes(range(256)) * 1024


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(ledger: Ledger, run_id: str, name: str = "a") -> bytes:
    return b"".join([chunk async for chunk in ledger.artifacts.read(run_id, name)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def ledger(valkey: ValkeyServer, folder: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings_for(valkey, artifacts_url=f"file://{folder}"))
    yield ledger
    await ledger.close()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def sweep(ledger: Ledger, *, due: bool = True) -> int:
    """Sweep; by default as if all were due."""
    assert ledger.objects is not None
    uploads = f"{ledger.keys.shard_prefix(0)}uploads"
    if due:
        for member in await ledger.connection.execute("ZRANGE", uploads, 0, -1):
            await ledger.connection.execute("ZADD", uploads, 0, member)
    return await ledger.objects.sweep(0)


async def test_a_large_artifact_is_an_object_and_a_small_one_stays(
    ledger: Ledger, folder: Path
) -> None:
    lease = await running(ledger)
    exact = ledger.settings.artifact_inline_bytes
    await ledger.artifacts.write(lease, "small", pieces(LARGE[:exact]), TEXT)
    assert files(folder) == []
    info = await ledger.artifacts.write(lease, "large", pieces(LARGE[: exact + 1]), TEXT)
    (file,) = files(folder)
    assert file.read_bytes() == LARGE[: exact + 1]
    assert file.parent == folder / ledger.settings.namespace / lease.run_id
    assert info.sha256 == hashlib.sha256(LARGE[: exact + 1]).hexdigest()
    assert await ledger.artifacts.list(lease.run_id) == [
        info,
        (await ledger.artifacts.list(lease.run_id))[1],
    ]
    assert await content(ledger, lease.run_id, "large") == LARGE[: exact + 1]
    assert await content(ledger, lease.run_id, "small") == LARGE[:exact]
    # Redis has the small one's bytes only.
    assert await ledger.connection.execute("KEYS", "*blob:*") != []


async def test_an_artifact_over_the_limit_is_refused_and_leaves_nothing(
    valkey: ValkeyServer, folder: Path
) -> None:
    values = {
        "artifacts_url": f"file://{folder}",
        "max_artifact_bytes": MEBIBYTE,
        "max_artifacts": 1,
    }
    ledger = Ledger(settings_for(valkey, **values))
    try:
        lease = await running(ledger)
        with pytest.raises(ArtifactTooLargeError, match="SKILLFLEET_MAX_ARTIFACT_BYTES"):
            await ledger.artifacts.write(lease, "a", pieces(*[LARGE] * 5), TEXT)
        assert files(folder) == []
        await ledger.artifacts.write(lease, "a", pieces(*[LARGE] * 4), TEXT)
        with pytest.raises(LimitExceededError, match="SKILLFLEET_MAX_ARTIFACTS"):
            await ledger.artifacts.write(lease, "b", pieces(LARGE), TEXT)
        await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
        # The broken upload was noted before it began.
        assert await sweep(ledger) == 2
        assert len(files(folder)) == 1
    finally:
        await ledger.close()


async def test_what_was_replaced_is_deleted(ledger: Ledger, folder: Path) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
    (first,) = files(folder)
    await ledger.artifacts.write(lease, "a", pieces(LARGE, b"second"), TEXT)
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert await sweep(ledger) == 1
    assert not first.exists()
    assert await content(ledger, lease.run_id) == LARGE + b"second"
    assert await sweep(ledger) == 0


async def test_an_upload_under_way_stays_until_its_lease_is_gone(
    ledger: Ledger, folder: Path
) -> None:
    lease = await running(ledger)
    assert ledger.objects is not None
    await ledger.objects.write(lease, "upload", "a", pieces(LARGE))
    assert await sweep(ledger) == 0
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert await sweep(ledger, due=False) == 0
    assert await sweep(ledger) == 1
    assert files(folder) == []


async def test_objects_are_deleted_with_their_run(
    ledger: Ledger, folder: Path, valkey: ValkeyServer
) -> None:
    lease = await running(ledger, retention_ms=50)
    await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    key = f"{ledger.keys.prefix(lease.run_id)}artifacts:{lease.run_id}"
    with valkey.client() as client:
        wait_until(lambda: not client.exists(key), what="the run to expire")
    assert await sweep(ledger) == 1
    assert files(folder) == []
    assert await ledger.connection.execute("ZCARD", f"{ledger.keys.shard_prefix(0)}uploads") == 0


async def test_an_object_is_looked_at_again_when_its_run_expires(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a:b", pieces(LARGE), TEXT)
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert await sweep(ledger) == 0
    uploads = f"{ledger.keys.shard_prefix(0)}uploads"
    (_, score) = await ledger.connection.execute("ZRANGE", uploads, 0, -1, "WITHSCORES")
    seconds, micros = await ledger.connection.execute("TIME")
    left = float(score) - int(seconds) * 1000 - int(micros) / 1000
    assert 3_500_000 < left <= 3_600_000
    assert await content(ledger, lease.run_id, "a:b") == LARGE


async def test_a_stale_attempt_writes_no_object(ledger: Ledger, folder: Path) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
    await claimed(ledger, lease.run_id, "w2")
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
    assert files(folder) == []


async def test_damaged_bytes_are_noticed(ledger: Ledger, folder: Path) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
    (file,) = files(folder)
    file.write_bytes(LARGE[:-1] + b"?")
    with pytest.raises(ObjectStoreError, match="damaged"):
        await content(ledger, lease.run_id)
    file.unlink()
    with pytest.raises(UnknownArtifactError, match="expired or was replaced"):
        await content(ledger, lease.run_id)


async def test_a_reader_without_the_store_learns_what_to_set(
    ledger: Ledger, valkey: ValkeyServer
) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
    other = Ledger(settings_for(valkey))
    try:
        with pytest.raises(CapabilityUnavailableError, match="SKILLFLEET_ARTIFACTS_URL"):
            await content(other, lease.run_id)
    finally:
        await other.close()


async def test_memory_stays_bounded_however_large_the_artifact(ledger: Ledger) -> None:
    lease = await running(ledger)
    size = 48 * MEBIBYTE

    async def source() -> AsyncIterator[bytes]:
        for _ in range(size // 65_536):
            yield b"x" * 65_536

    tracemalloc.start()
    try:
        await ledger.artifacts.write(lease, "a", source(), TEXT)
        read = 0
        async for chunk in ledger.artifacts.read(lease.run_id, "a"):
            read += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == size
    assert peak < 24 * MEBIBYTE


@pytest.mark.parametrize("url", ["ftp://host/x", "bucket/x", "s3://"])
def test_a_url_that_names_no_store_is_refused(valkey: ValkeyServer, url: str) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_ARTIFACTS_URL"):
        Ledger(settings_for(valkey, artifacts_url=url))


@pytest.mark.xdist_group("s3")
class TestFaults:
    """A real S3 server behind a proxy that fails."""

    @pytest.fixture(autouse=True)
    def _variables(self, minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self._minio = minio
        self._set = monkeypatch.setenv
        self._point(minio.endpoint)
        self._set("SKILLFLEET_ARTIFACTS_RETRY_SECONDS", "20")

    def _point(self, endpoint: str) -> None:
        for name, value in self._minio.variables(endpoint).items():
            self._set(name, value)

    def _ledger(self, valkey: ValkeyServer, **values: Any) -> Ledger:
        url = f"{self._minio.url}/{uuid.uuid4()}"
        return Ledger(settings_for(valkey, **({"artifacts_url": url} | values)))

    async def test_a_large_artifact_and_its_url(self, valkey: ValkeyServer) -> None:
        ledger = self._ledger(valkey)
        try:
            lease = await running(ledger)
            await ledger.artifacts.write(lease, "a", pieces(*[LARGE] * 256), TEXT)
            digest, size = hashlib.sha256(), 0
            async for piece in ledger.artifacts.read(lease.run_id, "a"):
                digest.update(piece)
                size += len(piece)
            assert (size, digest.digest()) == (64 * MEBIBYTE, hashlib.sha256(LARGE * 256).digest())
            url = await ledger.artifacts.url(lease.run_id, "a", 60)
            async with httpx.AsyncClient() as client:
                answer = await client.get(url)
            assert answer.raise_for_status().content[: len(LARGE)] == LARGE
            await ledger.artifacts.write(lease, "small", pieces(b"x"), TEXT)
            with pytest.raises(CapabilityUnavailableError, match="lies in Redis"):
                await ledger.artifacts.url(lease.run_id, "small", 60)
        finally:
            await ledger.close()

    async def test_connections_that_break_are_made_again(self, valkey: ValkeyServer) -> None:
        async with Proxy(self._minio.port) as proxy:
            self._point(f"http://127.0.0.1:{proxy.port}")
            ledger = self._ledger(valkey)
            try:
                lease = await running(ledger)
                proxy.cut_requests_after(3 * MEBIBYTE)
                await ledger.artifacts.write(lease, "a", pieces(*[LARGE] * 64), TEXT)
                proxy.cut_replies_after(3 * MEBIBYTE)
                assert await content(ledger, lease.run_id) == LARGE * 64
            finally:
                await ledger.close()

    async def test_a_server_that_refuses_is_named(self, valkey: ValkeyServer, folder: Path) -> None:
        self._set("AWS_SECRET_ACCESS_KEY", "wrong")
        ledger = self._ledger(valkey)
        try:
            lease = await running(ledger)
            with pytest.raises(ObjectStoreError, match="credentials") as caught:
                await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
            assert not caught.value.retryable
            assert await ledger.artifacts.list(lease.run_id) == []
        finally:
            await ledger.close()

    async def test_a_server_that_is_away_is_an_error_in_bounded_time(
        self, valkey: ValkeyServer
    ) -> None:
        self._set("SKILLFLEET_ARTIFACTS_RETRY_SECONDS", "1")
        self._point("http://127.0.0.1:9")
        ledger = self._ledger(valkey)
        try:
            lease = await running(ledger)
            async with asyncio.timeout(20):
                with pytest.raises(ObjectStoreError) as caught:
                    await ledger.artifacts.write(lease, "a", pieces(LARGE), TEXT)
            assert caught.value.retryable
            # Small ones need no object store.
            await ledger.artifacts.write(lease, "small", pieces(b"x"), TEXT)
        finally:
            await ledger.close()
