"""Blocking reads: each has its own connection, and none is left open."""

import asyncio

import pytest

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.redis_client.blocking_reads import BlockingReadPool
from skillfleet_ledger.redis_client.connection import ReplyError
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

FOREVER = ("BLPOP", "nothing-comes", 0)


async def test_waiting_reads_do_not_delay_others_and_connections_are_reused(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy:
        reads = BlockingReadPool(proxy.url, timeout=10, name="reads")
        first = asyncio.create_task(reads.execute("BLPOP", "a", 0))
        await wait_until_async(lambda: _accepted(proxy, 1))
        for number in range(20):
            assert await reads.execute("ECHO", str(number)) == str(number).encode()
        assert proxy.accepted == 2
        with valkey.client() as client:
            client.rpush("a", "x")
        assert await first == [b"a", b"x"]
        await reads.close()


async def test_a_cancelled_read_leaves_no_reply_to_the_next_one(valkey: ValkeyServer) -> None:
    reads = BlockingReadPool(valkey.url, timeout=10, name="stopped-reads")

    tasks = [asyncio.create_task(reads.execute("BLPOP", "b", 0)) for _ in range(3)]
    await wait_until_async(lambda: _connected(valkey, "stopped-reads", 3))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert await reads.execute("ECHO", "mine") == b"mine"
    await wait_until_async(lambda: _connected(valkey, "stopped-reads", 1))
    await reads.close()
    await wait_until_async(lambda: _connected(valkey, "stopped-reads", 0))


async def test_an_error_of_redis_is_raised_and_closing_ends_all_reads(
    valkey: ValkeyServer,
) -> None:
    reads = BlockingReadPool(valkey.url, timeout=10, name="reads")
    with pytest.raises(ReplyError, match="wrong number"):
        await reads.execute("GET")
    task = asyncio.create_task(reads.execute(*FOREVER))
    await asyncio.sleep(0.05)
    await reads.close()
    with pytest.raises(ConnectionError):
        await task
    with pytest.raises(FleetUnavailableError):
        await reads.execute("PING")


async def _connected(valkey: ValkeyServer, name: str, count: int) -> bool:
    with valkey.client() as client:
        return [entry["name"] for entry in client.client_list()].count(name) == count


async def _accepted(proxy: Proxy, count: int) -> bool:
    return proxy.accepted == count
