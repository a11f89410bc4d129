"""Every script stays in the slot of its run's shard, and keys.py names every key."""

import re
import uuid
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from skillfleet_ledger import Ledger, keys
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.maintenance import ReapOptions
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    event,
    lapse,
    reap,
    settings_for,
    submission,
)
from tests.support.valkey import ValkeyServer

SHARDS = 16


async def one_of_everything(ledger: Ledger, run_id: str) -> None:
    """Play a run's life that calls every script and touches every kind of key."""
    shard = ledger.keys.shard(run_id)
    await ledger.submissions.submit(
        submission(id=run_id, delay_ms=1, deadline_ms=4_102_444_800_000, priority=3)
    )
    while not (await reap(ledger, shard=shard)).to_publish:
        pass
    lease = await claimed(ledger, run_id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x", delay_ms=1)
    while not (await reap(ledger, shard=shard)).to_publish:
        pass
    await claimed(ledger, run_id)
    await lapse(ledger, run_id)
    await reap(ledger, shard=shard)
    lease = await claimed(ledger, run_id)
    await ledger.leases.renew("w1", LONG_MS, {run_id: lease.token}, timeout=5)
    await ledger.streams.append(lease, lease.seq + 1, [event()])
    await ledger.artifacts.write(lease, "a", _bytes(), "text/plain")
    await ledger.artifacts.fenced("begin_upload", lease, "u1", "b", 0)
    prefix = ledger.keys.shard_prefix(shard)
    assert await run_script(ledger.connection, "due_uploads", (prefix,), (9, 60_000)) == []
    child = child_of(lease, run_id, id=ledger.keys.new_id(beside=run_id))
    await ledger.submissions.submit(child)
    await ledger.leases.end_unclaimed(child.id, "librarian.survey", DONE)
    await ledger.cancellation.cancel(run_id, "enough")
    await ledger.leases.settle(lease, "librarian.survey", lease.seq + 1, DONE)
    await ledger.maintenance.reap(shard, "reaper", ReapOptions(grace_ms=0))
    await ledger.queries.status(run_id)
    await ledger.grants.bind(run_id, "g1", run_id, 60)
    await ledger.grants.revoke(run_id, "g2", 60)
    await ledger.grants.revoke_all(run_id)
    assert (await ledger.grants.state(run_id, ["g1", "g2"]))[1]


async def _bytes() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.fixture
async def sharded(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings_for(valkey, shards=SHARDS))
    yield ledger
    await ledger.close()


def test_shards_of_random_ids_are_evenly_used(sharded: Ledger) -> None:
    counts = [0] * SHARDS
    for _ in range(1600):
        counts[sharded.keys.shard(str(uuid.uuid4()))] += 1
    assert min(counts) > 50


async def test_every_script_touches_one_slot_beside_results_and_broker(
    valkey: ValkeyServer, sharded: Ledger
) -> None:
    run_ids = {
        sharded.keys.shard(run_id): run_id for run_id in (sharded.keys.new_id() for _ in range(300))
    }
    assert len(run_ids) == SHARDS
    outside = ("celery-task-meta-", "celery")
    for shard, run_id in run_ids.items():
        with valkey.client() as client, client.monitor() as monitor:
            await one_of_everything(sharded, run_id)
            client.echo("over")
            slots: set[int] = set()
            while (seen := monitor.next_command())["command"] != "ECHO over":
                name, _, rest = seen["command"].partition(" ")
                key = rest.split(" ")[0]
                # A process renews its presence in every shard.
                presence = key.endswith("}:workers")
                if seen["client_type"] != "lua" or name == "TIME" or presence:
                    continue
                if key.startswith(outside):
                    continue
                slots.add(key_slot(key.encode()))
        assert slots == {key_slot(sharded.keys.shard_prefix(shard).encode())}


async def test_no_key_exists_that_keys_py_does_not_name(
    valkey: ValkeyServer, sharded: Ledger
) -> None:
    assert keys.__doc__ is not None
    named = set(re.findall(r"^\| P ([a-z_]+)", keys.__doc__, re.MULTILINE))
    run_id = sharded.keys.new_id()
    await one_of_everything(sharded, run_id)
    await sharded.dead_letters.add("bad", b"x")
    with valkey.client() as client:
        found = {key.decode() for key in client.keys("*")}
    inside = {key.partition("}:")[2].partition(":")[0] for key in found if key.startswith("{")}
    assert inside <= named
    assert {"run", "events", "attempts", "children", "artifacts", "blob", "expiring"} <= inside
    assert "uploads" in inside
    outside = {key for key in found if not key.startswith("{")}
    assert all(key.startswith("celery-task-meta-") for key in outside)
    of_run = {key for key in found if run_id in key and key not in outside}
    assert {key.partition("}:")[0] for key in of_run} == {sharded.keys.prefix(run_id).rstrip("}:")}
