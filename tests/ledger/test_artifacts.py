"""Artifacts: chunks under the lease, limits, replacement, streaming."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from skillfleet.errors import ArtifactTooLargeError, LimitExceededError, UnknownArtifactError
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.chunks import CHUNK_BYTES
from skillfleet_ledger.settings import MEBIBYTE
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
    touch,
)
from tests.support.valkey import ValkeyServer

TEXT = "text/plain"


async def blobs(ledger: Ledger) -> list[str]:
    keys = await ledger.connection.execute("KEYS", "*blob:*")
    return [key.decode() for key in keys]


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 9 * CHUNK_BYTES + 7]
)
async def test_an_artifact_is_read_as_it_was_written(ledger: Ledger, size: int) -> None:
    lease = await running(ledger)
    data = bytes(range(256)) * (size // 256 + 1)
    info = await ledger.artifacts.write(lease, "a", pieces(data[:size]), TEXT)
    assert (info.size_bytes, info.mime_type, info.attempt) == (size, TEXT, 1)
    assert info.sha256 == hashlib.sha256(data[:size]).hexdigest()
    assert await content(ledger, lease.run_id) == data[:size]
    assert await ledger.artifacts.list(lease.run_id) == [info]


async def test_no_value_in_redis_is_larger_than_a_chunk(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(b"x" * (2 * MEBIBYTE + 5)), TEXT)
    (key,) = await blobs(ledger)
    lengths = [await ledger.connection.execute("HSTRLEN", key, i) for i in range(33)]
    assert lengths == [CHUNK_BYTES] * 32 + [5]


async def test_an_artifact_over_the_limit_is_refused_and_leaves_nothing(
    valkey: ValkeyServer,
) -> None:
    ledger = Ledger(settings_for(valkey, max_artifact_bytes=MEBIBYTE))
    try:
        lease = await running(ledger)
        with pytest.raises(ArtifactTooLargeError, match="SKILLFLEET_MAX_ARTIFACT_BYTES"):
            await ledger.artifacts.write(lease, "a", pieces(*[b"x" * 70_000] * 16), TEXT)
        assert await ledger.artifacts.list(lease.run_id) == []
        assert await blobs(ledger) == []
        exact = await ledger.artifacts.write(lease, "a", pieces(b"x" * MEBIBYTE), TEXT)
        assert exact.size_bytes == MEBIBYTE
    finally:
        await ledger.close()


async def test_a_run_has_no_more_artifacts_than_its_limit(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, max_artifacts=2))
    try:
        lease = await running(ledger)
        for name in ("a", "b", "a"):
            await ledger.artifacts.write(lease, name, pieces(b"x"), TEXT)
        with pytest.raises(LimitExceededError, match="SKILLFLEET_MAX_ARTIFACTS"):
            await ledger.artifacts.write(lease, "c", pieces(b"x"), TEXT)
        assert len(await blobs(ledger)) == 2
    finally:
        await ledger.close()


async def test_a_source_that_fails_leaves_nothing(ledger: Ledger) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * (3 * CHUNK_BYTES)
        raise RuntimeError("the disk is gone")

    lease = await running(ledger)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        await ledger.artifacts.write(lease, "a", failing(), TEXT)
    assert await blobs(ledger) == []


async def test_a_writer_that_is_cancelled_leaves_nothing(ledger: Ledger) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (3 * CHUNK_BYTES)
        started.set()
        await asyncio.Event().wait()

    lease = await running(ledger)
    writer = asyncio.create_task(ledger.artifacts.write(lease, "a", endless(), TEXT))
    await started.wait()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert await blobs(ledger) == []


async def test_writing_a_name_again_replaces_its_bytes(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(b"first"), TEXT)
    await ledger.artifacts.write(lease, "a", pieces(b"second"), "text/markdown")
    assert await content(ledger, lease.run_id) == b"second"
    (info,) = await ledger.artifacts.list(lease.run_id)
    assert (info.mime_type, info.size_bytes) == ("text/markdown", 6)
    assert len(await blobs(ledger)) == 1


async def test_a_reader_of_replaced_bytes_gets_an_error(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(b"x" * (9 * CHUNK_BYTES)), TEXT)
    reader = ledger.artifacts.read(lease.run_id, "a")
    assert len(await anext(reader)) == CHUNK_BYTES
    await ledger.artifacts.write(lease, "a", pieces(b"second"), TEXT)
    with pytest.raises(UnknownArtifactError, match="replaced while it was read"):
        async for _ in reader:
            pass


async def test_a_stale_attempt_writes_no_artifact(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(b"mine"), TEXT)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.write(lease, "a", pieces(b"x" * (8 * CHUNK_BYTES)), TEXT)
    await claimed(ledger, lease.run_id, "w2")
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.write(lease, "b", pieces(b"stale"), TEXT)
    assert await content(ledger, lease.run_id) == b"mine"
    assert len(await blobs(ledger)) == 1


async def test_an_unfinished_upload_expires_whichever_chunk_arrived(
    ledger: Ledger,
) -> None:
    lease = await running(ledger)
    await ledger.artifacts.fenced("write_chunk", lease, "u1", 3, b"x", 60_000)
    (key,) = await blobs(ledger)
    assert 0 < await ledger.connection.execute("PTTL", key) <= 60_000


async def test_a_committed_upload_stays_until_the_run_expires(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.artifacts.write(lease, "a", pieces(b"x"), TEXT)
    (key,) = await blobs(ledger)
    assert await ledger.connection.execute("PTTL", key) == -1
    # A repeated write of a chunk that comes late must not extend the expiry.
    upload = key.rpartition(":")[2]
    await ledger.artifacts.fenced("write_chunk", lease, upload, 0, b"x", 60_000)
    assert await ledger.connection.execute("PTTL", key) == -1
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    assert await ledger.connection.execute("PTTL", key) > 0
    assert await touch(ledger, "PTTL", lease.run_id, f"artifacts:{lease.run_id}") > 0
    assert await content(ledger, lease.run_id) == b"x"


async def test_an_unknown_name_lists_the_known_ones(ledger: Ledger) -> None:
    lease = await running(ledger)
    with pytest.raises(UnknownArtifactError, match="it has: none"):
        await content(ledger, lease.run_id)
    await ledger.artifacts.write(lease, "report.md", pieces(b"x"), TEXT)
    with pytest.raises(UnknownArtifactError, match=r"it has: report\.md"):
        await content(ledger, lease.run_id)


async def test_memory_stays_bounded_however_large_the_artifact(ledger: Ledger) -> None:
    assert await peak_of_transfer(ledger, 48 * MEBIBYTE) < 16 * MEBIBYTE
