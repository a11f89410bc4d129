"""Artifacts and recorded values in an object store: commit, limits, sweep."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skillfleet.errors import (
    ArtifactTooLargeError,
    CapabilityUnavailableError,
    LimitExceededError,
    ObjectStoreError,
    SettingsError,
    UnknownArtifactError,
)
from skillfleet.ports.journal import Entry
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.records import Lease, WriteResult
from skillfleet_ledger.settings import MEBIBYTE
from tests.ledger.audit import audit
from tests.ledger.durable import entry, parked, recorded
from tests.ledger.helpers import (
    DONE,
    claimed,
    content,
    lapse,
    peak_of_transfer,
    pieces,
    reap,
    running,
    settings_for,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

TEXT = "text/plain"
LARGE = bytes(range(256)) * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def ledger(valkey: ValkeyServer, folder: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings_for(valkey, artifacts_url=f"file://{folder}"))
    yield ledger
    await ledger.close()
    with valkey.client() as client:
        assert audit(client, ledger.keys) == []


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def uploads(ledger: Ledger) -> list[float]:
    """Return when the uploads are due, in milliseconds."""
    key = f"{ledger.keys.shard_prefix(0)}uploads"
    found = await ledger.connection.execute("ZRANGE", key, 0, -1, "WITHSCORES")
    return [float(score) for score in found[1::2]]


async def let_all_be_due(ledger: Ledger) -> None:
    key = f"{ledger.keys.shard_prefix(0)}uploads"
    for member in await ledger.connection.execute("ZRANGE", key, 0, -1):
        await ledger.connection.execute("ZADD", key, 0, member)


async def sweep(ledger: Ledger, *, due: bool = True) -> int:
    """Sweep; by default as if all were due."""
    assert ledger.objects is not None
    if due:
        await let_all_be_due(ledger)
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
    assert await uploads(ledger) == []
    # The reaper takes an expired run out of the indexes a second later.
    deadline = time.monotonic() + 30
    while await ledger.connection.execute("ZCARD", f"{ledger.keys.shard_prefix(0)}expiring"):
        assert time.monotonic() < deadline
        await reap(ledger)
        await asyncio.sleep(0.05)


async def test_an_object_is_looked_at_again_when_its_run_expires(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a:b", pieces(LARGE), TEXT)
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert await sweep(ledger) == 0
    (score,) = await uploads(ledger)
    assert 3_500_000 < score - await ledger.directory.now_ms() <= 3_600_000
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


async def value_of(ledger: Ledger, lease: Lease, value: bytes, *, is_recorded: bool) -> Entry:
    """Write a large value, and record it or not."""
    digest = hashlib.sha256(value).hexdigest()
    written = await ledger.journals.write_value(lease, digest, value)
    assert written is WriteResult.RECORDED
    new = entry(digest[:8], value=None, size=len(value), digest=digest)
    if is_recorded:
        await recorded(ledger, lease, new)
    return new


async def test_a_recorded_value_is_an_object_as_long_as_its_run(
    ledger: Ledger, folder: Path
) -> None:
    lease = await running(ledger)
    kept = await value_of(ledger, lease, LARGE, is_recorded=True)
    await value_of(ledger, lease, LARGE[1:], is_recorded=False)
    assert len(files(folder)) == 2
    assert await sweep(ledger) == 0
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    # The next attempt may record it.
    assert await sweep(ledger) == 0
    lease = await claimed(ledger, lease.run_id, "w2")
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert await sweep(ledger) == 1
    assert await ledger.journals.value(lease.run_id, kept) == LARGE
    (score,) = await uploads(ledger)
    assert score > await ledger.directory.now_ms() + 3_500_000


async def test_a_value_stays_while_its_run_is_parked(ledger: Ledger) -> None:
    lease = await running(ledger)
    await value_of(ledger, lease, LARGE, is_recorded=False)
    await parked(ledger, lease)
    assert await sweep(ledger) == 0


async def test_a_small_value_stays_in_redis(ledger: Ledger, folder: Path) -> None:
    lease = await running(ledger)
    exact = LARGE[: ledger.settings.artifact_inline_bytes]
    small = await value_of(ledger, lease, exact, is_recorded=True)
    assert files(folder) == []
    assert await ledger.journals.value(lease.run_id, small) == exact


async def test_what_the_sweeper_did_not_delete_comes_again(ledger: Ledger, folder: Path) -> None:
    lease = await running(ledger)
    assert ledger.objects is not None
    await ledger.objects.write(lease, "upload", "a", pieces(LARGE))
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    await let_all_be_due(ledger)
    prefix = ledger.keys.shard_prefix(0)
    now = await ledger.directory.now_ms()
    found = await run_script(ledger.connection, "due_uploads", (prefix,), (9, 60_000))
    assert found == [f"{lease.run_id}:{lease.token}:upload:a".encode()]
    (score,) = await uploads(ledger)
    assert now + 60_000 <= score < now + 120_000
    assert await sweep(ledger) == 1
    assert files(folder) == []
    assert await uploads(ledger) == []


async def test_a_round_of_the_sweeper_is_bounded(ledger: Ledger) -> None:
    lease = await running(ledger)
    for number in range(3):
        args = ("begin_upload", lease, f"o{number}", "a", 60_000)
        assert await ledger.artifacts.fenced(*args) == 1
    now = await ledger.directory.now_ms()
    assert all(now + 50_000 < score <= now + 60_000 for score in await uploads(ledger))
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    await let_all_be_due(ledger)
    prefix = ledger.keys.shard_prefix(0)
    found = await run_script(ledger.connection, "due_uploads", (prefix,), (2, 60_000))
    assert len(found) == 2


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
    assert await peak_of_transfer(ledger, 48 * MEBIBYTE) < 24 * MEBIBYTE


@pytest.mark.parametrize("url", ["ftp://host/x", "bucket/x", "s3://"])
def test_a_url_that_names_no_store_is_refused(valkey: ValkeyServer, url: str) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_ARTIFACTS_URL"):
        Ledger(settings_for(valkey, artifacts_url=url))
