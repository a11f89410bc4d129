"""The heartbeat while Redis refuses: with a pause, and two lines in the log."""

import asyncio
import logging

import pytest

from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, RunLimits
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.delivery import Delivery
from skillfleet_worker.attempts.stop_request import StopKind
from skillfleet_worker.services.heartbeat import Heartbeat
from skillfleet_worker.settings import WorkerSettings
from tests.ledger.helpers import LONG_MS, claimed, lapse, reap, submitted
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async


@pytest.mark.parametrize("patient", [True, False])
async def test_it_goes_on_when_it_is_let_in_and_is_logged_twice(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture, patient: bool
) -> None:
    """Also where the refusal comes at once."""
    url = f"redis://beats:old@127.0.0.1:{server.port}/0"
    settings = WorkerSettings.load(redis_url=url, lease_seconds=1)
    ledger = Ledger(settings, patient=patient)
    heartbeat = Heartbeat(ledger.leases, "w1", {}, settings)
    with server.client() as client:

        def tries() -> int:
            info = client.info("commandstats")
            return int(info.get("cmdstat_auth", {}).get("failed_calls", 0))

        def renewals() -> int:
            return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

        def rotate(password: str) -> None:
            rules = ("reset", "on", f">{password}", "~*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", "beats", *rules)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        async def at_least(count: int) -> bool:
            return await asyncio.to_thread(tries) >= count

        async def renewed(before: int) -> bool:
            return await asyncio.to_thread(renewals) > before

        rotate("old")
        with caplog.at_level(logging.WARNING):
            beating = asyncio.create_task(heartbeat.run())
            await wait_until_async(lambda: renewed(0), what="the first beat")
            rotate("new")
            began = asyncio.get_running_loop().time()
            await wait_until_async(lambda: at_least(3), what="some tries")
            seconds = asyncio.get_running_loop().time() - began
            assert await asyncio.to_thread(tries) < 10 + 10 * seconds
            before = await asyncio.to_thread(renewals)
            rotate("old")
            await wait_until_async(lambda: renewed(before), what="another beat")
            await wait_until_async(lambda: _lines(caplog, 2), what="the log lines")
        beating.cancel()
        await asyncio.wait([beating])
        await ledger.close()
        client.execute_command("ACL", "DELUSER", "beats")
    assert await _lines(caplog, 2)


@pytest.mark.parametrize("timeout_ms", [0, 3_600_000])
async def test_it_reports_the_executing_time_of_attempts_for_which_it_is_limited(
    server: ValkeyServer, timeout_ms: int
) -> None:
    """A next attempt has as much less, when the one that reported it is lost."""
    settings = WorkerSettings.load(redis_url=server.url)
    ledger = Ledger(settings)
    limits, run_id = RunLimits(timeout_ms), (await submitted(ledger)).id

    async def claim(number: str) -> Lease:
        lease = (await ledger.leases.claim(run_id, "w1", number, LONG_MS, None, limits)).lease
        assert lease is not None
        return lease

    lease = await claim("1")
    delivery = Delivery(run_id, "kit", "add", "celery", {}, None, None, run_id, {})
    attempt = Attempt(lease, delivery, asyncio.get_running_loop().time())
    await wait_until_async(lambda: _has_executed(attempt, 5), what="some executing time")
    attempt.clock.pause()
    assert await Heartbeat(ledger.leases, "w1", {run_id: attempt}, settings).beat()
    await lapse(ledger, run_id)
    await reap(ledger)
    rest = timeout_ms - attempt.clock.spent_ms if timeout_ms else None
    assert (await claim("2")).rest_ms == rest
    await ledger.close()


async def _has_executed(attempt: Attempt, milliseconds: int) -> bool:
    return attempt.clock.spent_ms >= milliseconds


@pytest.mark.parametrize("lost", [False, True])
async def test_while_no_one_may_write_a_run_is_held_as_long_as_its_record_knows_it(
    server: ValkeyServer, lost: bool
) -> None:
    settings = WorkerSettings.load(redis_url=server.url, lease_seconds=1, reap_seconds=0.1)
    ledger = Ledger(settings, patient=True)
    lease = await claimed(ledger, (await submitted(ledger)).id, lease_ms=1000)
    delivery = Delivery(lease.run_id, "kit", "add", "celery", {}, None, None, lease.run_id, {})
    now = asyncio.get_running_loop().time()
    attempt = Attempt(lease, delivery, now)
    attempts = {lease.run_id: attempt}
    heartbeat = Heartbeat(ledger.leases, "w1", attempts, settings)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        beating = asyncio.create_task(heartbeat.run())
        try:
            await asyncio.sleep(2.5)
            assert attempt.stop is None
            assert attempt.renewed_at == now
            client.config_set("maxmemory", 0)
            if lost:
                await ledger.connection.execute(
                    "HINCRBY", f"{ledger.keys.prefix(lease.run_id)}run:{lease.run_id}", "token", 1
                )
                await wait_until_async(lambda: _is_lost(attempt), what="the loss to be noticed")
            else:
                await wait_until_async(lambda: _is_renewed(attempt, now), what="a renewal")
                assert attempt.stop is None
        finally:
            beating.cancel()
            await asyncio.wait([beating])
            await ledger.close()


async def _is_lost(attempt: Attempt) -> bool:
    return attempt.stop is not None and attempt.stop.kind is StopKind.LOST


async def _is_renewed(attempt: Attempt, since: float) -> bool:
    return attempt.renewed_at > since


async def _lines(caplog: pytest.LogCaptureFixture, count: int) -> bool:
    found = [record for record in caplog.records if "leases cannot be renewed" in record.message]
    return len(found) == count
