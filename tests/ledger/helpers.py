"""Helpers of the ledger's tests: runs to submit, leases that lapse, rounds of the reaper."""

import tracemalloc
import uuid
from collections.abc import AsyncIterator
from typing import Any

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.maintenance import ReapOptions, ReapResult
from skillfleet_ledger.runs.records import ClaimStatus, Lease, Submission
from skillfleet_ledger.runs.search import RunFilter, RunPage
from tests.support.valkey import ValkeyServer

LONG_MS = 3_600_000
DONE = RunEnd(RunState.SUCCEEDED, "completed", value={"answer": 42})


def settings_for(valkey: ValkeyServer, **values: Any) -> Settings:
    """Return settings for a ledger on the test's server."""
    return Settings.load(**{"redis_url": valkey.url, **values})


def submission(**values: Any) -> Submission:
    """Return a run of `librarian.survey`; `values` replace its fields."""
    defaults: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "agent": "librarian",
        "skill": "survey",
        "queue": "celery",
        "args": b'{"folder":"."}',
        "headers": b"{}",
        "digest": "d1",
        "retention_ms": LONG_MS,
        "max_deliveries": 3,
    }
    return Submission(**(defaults | values))


def child_of(parent: Lease | Submission, root: str, **values: Any) -> Submission:
    """Return a run that `parent` calls in the tree of `root`, with arguments of its own."""
    parent_id = parent.run_id if isinstance(parent, Lease) else parent.id
    defaults = {"parent_id": parent_id, "root_id": root, "digest": f"below {parent_id}"}
    return submission(**(defaults | values))


async def submitted(ledger: Ledger, **values: Any) -> Submission:
    """Submit a run and return it."""
    new = submission(**values)
    assert await ledger.submissions.submit(new)
    return new


async def claimed(
    ledger: Ledger, run_id: str, worker: str = "w1", lease_ms: int = LONG_MS
) -> Lease:
    """Claim the run and return the lease of its new attempt."""
    claim = await ledger.leases.claim(run_id, worker, uuid.uuid4().hex, lease_ms, None)
    assert claim.status is ClaimStatus.CLAIMED, claim
    assert claim.lease is not None
    return claim.lease


async def running(ledger: Ledger, **values: Any) -> Lease:
    """Submit and claim a run and return the lease of its first attempt."""
    return await claimed(ledger, (await submitted(ledger, **values)).id)


async def lapse(ledger: Ledger, run_id: str) -> None:
    """Move the end of the run's lease into the past."""
    await touch(ledger, "ZADD", run_id, "leases", "XX", 1, run_id)


async def touch(ledger: Ledger, command: str, run_id: str, key: str, *args: Any) -> Any:
    """Call a Redis command on a key of the run's shard."""
    return await ledger.connection.execute(command, f"{ledger.keys.prefix(run_id)}{key}", *args)


async def reap(
    ledger: Ledger, worker: str = "reaper", shard: int = 0, **options: Any
) -> ReapResult:
    """Play one round of the reaper, which must get the leader lock."""
    found = await ledger.maintenance.reap(shard, worker, ReapOptions(**options))
    assert found is not None
    return found


def event(text: str = "x") -> tuple[str, bytes, int]:
    """Return a packed event of kind `text`."""
    return ("text", orjson.dumps({"text": text}), 1_795_000_000_000)


async def newest(ledger: Ledger, limit: int = 50, **conditions: Any) -> RunPage:
    """Return the first page of runs that meet the conditions."""
    return await ledger.search.page(RunFilter(**conditions), limit=limit)


def expiring_entry(
    new: Submission | Lease, state: str = "succeeded", tags: str = "", session: str = ""
) -> str:
    """Return the entry of an ended run of the librarian in the index of expiry."""
    run_id = new.run_id if isinstance(new, Lease) else new.id
    lengths = f"{len(run_id)}|{len(session)}"
    return f"{state}|librarian|{lengths}|{run_id}{session}{tags}"


async def read_all(ledger: Ledger, run_id: str, after: str | None = None) -> list[Any]:
    """Return all events of a run that has ended."""
    return [event async for event in ledger.streams.read(run_id, after)]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the content of an artifact in these pieces."""
    for part in parts:
        yield part


async def content(ledger: Ledger, run_id: str, name: str = "a") -> bytes:
    """Return the content of an artifact."""
    return b"".join([piece async for piece in ledger.artifacts.read(run_id, name)])


async def peak_of_transfer(ledger: Ledger, size: int) -> int:
    """Write and read an artifact of `size` bytes; return the peak of memory in bytes."""
    lease, piece = await running(ledger), b"x" * 65_536

    async def source() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    tracemalloc.start()
    try:
        await ledger.artifacts.write(lease, "a", source(), "text/plain")
        read = 0
        async for chunk in ledger.artifacts.read(lease.run_id, "a"):
            read += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == size
    return peak
