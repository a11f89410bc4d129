"""Redis is away, silent or cut off: nobody hangs, nothing is lost, nothing happens twice."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import FleetUnavailableError, RunFailed
from skillfleet_producer import Fleet, Settings
from skillfleet_producer.fleet_async import AsyncFleet, AsyncRunHandle
from tests.ledger.audit import audit
from tests.support.fleet import FleetWorker
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async
from tests.worker.shared import StartWorker

LAB = "tests.worker.lab"
QUICK = {"lease_seconds": 1, "redis_timeout_seconds": 0.5, "reap_seconds": 0.2}


async def test_all_who_enqueue_while_redis_is_silent_learn_of_it_at_once(
    server: ValkeyServer,
) -> None:
    async with Proxy(server.port) as proxy:
        settings = Settings.load(redis_url=proxy.url, redis_timeout_seconds=0.5)
        async with AsyncFleet(settings=settings) as fleet:
            await fleet.enqueue("lab.add", {"x": 1})
            proxy.hold()
            fleet._catalogue._read_at = float("-inf")  # it is older than it may be
            # One after the other they would take twice as long.
            async with asyncio.timeout(20):
                answers = await asyncio.gather(
                    *(fleet.enqueue("lab.add", {"x": n}) for n in range(80)),
                    return_exceptions=True,
                )
            assert {type(answer) for answer in answers} == {FleetUnavailableError}
            proxy.release()
            run = await fleet.enqueue("lab.add", {"x": 1})
            assert (await run.status()).state is RunState.QUEUED
