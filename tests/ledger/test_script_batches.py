"""Batches: calls of one script in one turn of the event loop are one call for Redis."""

import asyncio
from typing import Any

from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.connection import ReplyError
from skillfleet_ledger.runs.records import ClaimStatus, Submission, WriteResult
from tests.ledger.helpers import DONE, LONG_MS, settings_for, submission, submitted, touch
from tests.support.valkey import ValkeyServer


async def submit_all(ledger: Ledger, news: list[Submission]) -> list[Any]:
    calls = (ledger.submissions.submit(new, b"message") for new in news)
    return await asyncio.gather(*calls, return_exceptions=True)


async def claim_all(ledger: Ledger, run_ids: list[str]) -> list[Any]:
    calls = (ledger.leases.claim(run_id, "w", "c", LONG_MS, None) for run_id in run_ids)
    return await asyncio.gather(*calls, return_exceptions=True)


def script_calls(valkey: ValkeyServer) -> int:
    with valkey.client() as client:
        stats = client.info("commandstats")
        client.config_resetstat()
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


async def test_calls_of_one_turn_take_few_scripts(valkey: ValkeyServer, ledger: Ledger) -> None:
    await submitted(ledger)
    await submit_all(ledger, [submission() for _ in range(3)])
    script_calls(valkey)
    news = [submission() for _ in range(100)]
    assert await submit_all(ledger, news) == [True] * 100
    # The first leaves at once: the connection was idle. The others leave in batches of 16.
    assert script_calls(valkey) == 1 + 7
    assert await ledger.connection.execute("LLEN", "celery") == 103

    claims = await claim_all(ledger, [new.id for new in news])
    assert [claim.lease.run_id for claim in claims] == [new.id for new in news]
    settled = await asyncio.gather(
        *(ledger.leases.settle(c.lease, "librarian.survey", c.lease.seq, DONE) for c in claims)
    )
    assert [each.result for each in settled] == [WriteResult.SETTLED] * 100
    for new in news:
        end = await ledger.queries.end(new.id)
        assert end is not None
        assert end.value == DONE.value


async def test_an_error_is_that_of_its_own_call(ledger: Ledger) -> None:
    runs = [await submitted(ledger) for _ in range(20)]
    record, aside = f"run:{runs[7].id}", f"{ledger.keys.prefix(runs[7].id)}aside"
    await touch(ledger, "RENAME", runs[7].id, record, aside)
    await touch(ledger, "SET", runs[7].id, record, "no hash")
    found = await claim_all(ledger, [run.id for run in runs])
    await ledger.connection.execute("RENAME", aside, f"{ledger.keys.prefix(runs[7].id)}{record}")
    failed = found.pop(7)
    assert isinstance(failed, ReplyError)
    assert failed.code == "WRONGTYPE"
    assert {claim.status for claim in found} == {ClaimStatus.CLAIMED}


async def test_an_error_of_the_script_itself_is_named(ledger: Ledger) -> None:
    runs = [await submitted(ledger) for _ in range(5)]
    await touch(ledger, "HSET", runs[3].id, f"run:{runs[3].id}", "token", "no number")
    found = await claim_all(ledger, [run.id for run in runs])
    assert isinstance(found[3], ReplyError)
    assert str(found[3]).startswith("ERR Error running script in a batch: ")
    assert "arithmetic" in str(found[3])
    await touch(ledger, "HSET", runs[3].id, f"run:{runs[3].id}", "token", 0)
    assert found[4].status is ClaimStatus.CLAIMED


async def test_a_batch_is_sent_again_to_a_server_that_lacks_it(ledger: Ledger) -> None:
    await submit_all(ledger, [submission() for _ in range(40)])
    await ledger.connection.execute("SCRIPT", "FLUSH")
    assert await submit_all(ledger, [submission() for _ in range(40)]) == [True] * 40


async def test_a_call_that_cannot_be_sent_fails_alone(ledger: Ledger) -> None:
    await submitted(ledger)
    news = [submission() for _ in range(6)]
    news[3] = submission(skill="half a \ud800 pair")
    found = await submit_all(ledger, news)
    assert isinstance(found.pop(3), ValueError)
    assert found == [True] * 5


async def test_a_call_without_a_waiter_is_left_out(ledger: Ledger) -> None:
    await submitted(ledger)
    news = [submission() for _ in range(6)]
    calls = [asyncio.ensure_future(ledger.submissions.submit(new)) for new in news]
    await asyncio.sleep(0)
    calls[4].cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(found.pop(4), asyncio.CancelledError)
    assert found == [True] * 5


async def test_each_shard_has_batches_of_its_own(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, shards=3))
    try:
        news = [submission() for _ in range(60)]
        assert await submit_all(ledger, news) == [True] * 60
        for new in news:
            assert await touch(ledger, "HGET", new.id, f"run:{new.id}", "skill") == b"survey"
    finally:
        await ledger.close()


async def test_long_calls_are_executed_one_by_one(valkey: ValkeyServer, ledger: Ledger) -> None:
    await submitted(ledger)
    await submit_all(ledger, [submission() for _ in range(3)])
    script_calls(valkey)
    news = [submission(args=b'"%s"' % (b"x" * 5000)) for _ in range(10)]
    assert await submit_all(ledger, news) == [True] * 10
    assert script_calls(valkey) == 10


async def test_calls_of_a_batch_have_their_own_keys(valkey: ValkeyServer) -> None:
    """A claim that does not believe records takes the key of the run's result."""
    ledger = Ledger(settings_for(valkey, auth="required"))
    try:
        runs = [await submitted(ledger) for _ in range(6)]
        await ledger.connection.execute("SET", ledger.keys.result_key(runs[3].id), "{}")
        found = await claim_all(ledger, [run.id for run in runs])
    finally:
        await ledger.close()
    statuses = [claim.status for claim in found]
    assert statuses.pop(3) is ClaimStatus.ENDED
    assert statuses == [ClaimStatus.CLAIMED] * 5


async def test_messages_go_to_the_list_of_their_queue(ledger: Ledger) -> None:
    news = [submission(queue=f"queue{number}") for number in range(10)]
    plain = [submission(queue="silent") for _ in range(10)]
    mixed = [new for pair in zip(news, plain, strict=True) for new in pair]
    await asyncio.gather(
        *(ledger.submissions.submit(new, b"message" if new in news else b"") for new in mixed)
    )
    for new in news:
        assert await ledger.connection.execute("LRANGE", new.queue, 0, -1) == [b"message"]
    assert await ledger.connection.execute("LLEN", "silent") == 0


async def test_a_batch_leaves_what_single_calls_leave(valkey: ValkeyServer, ledger: Ledger) -> None:
    """Indexes that runs share are written once for all calls of a batch, in their order."""
    known = [await submitted(ledger) for _ in range(3)]
    plain = [submission() for _ in range(3)]
    mixed = [new for pair in zip(known, plain, strict=True) for new in pair]
    claims = await asyncio.gather(
        *(ledger.leases.claim(new.id, "w", "c", LONG_MS, new) for new in (*known[:1], *mixed))
    )
    assert [claim.status for claim in claims] == [ClaimStatus.CLAIMED] * 7
    leases = [claim.lease for claim in claims[1:] if claim.lease is not None]
    ids = {new.id.encode() for new in mixed}
    assert await ledger.connection.execute("EXISTS", "{skillfleet:0}:ready:celery:0") == 0
    assert set(await ledger.connection.execute("SMEMBERS", "{skillfleet:0}:running:celery")) == ids
    assert set(await ledger.connection.execute("ZRANGE", "{skillfleet:0}:leases", 0, -1)) == ids
    with valkey.client() as client:
        client.config_resetstat()
        await asyncio.gather(
            *(ledger.leases.settle(lease, "librarian.survey", 1, DONE) for lease in leases)
        )
        stats = client.info("commandstats")
    # The first leaves at once, the other five are a batch.
    once = ("evalsha", "time", "zrem", "srem")
    assert [stats[f"cmdstat_{name}"]["calls"] for name in once] == [2, 2, 2, 2]
    assert await ledger.connection.execute("ZCARD", "{skillfleet:0}:expiring") == 6
    assert await ledger.connection.execute("EXISTS", "{skillfleet:0}:leases") == 0
