"""Workers whose connections break all the time: every run still ends once and in order."""

import asyncio
import contextlib
import random
import uuid
from dataclasses import dataclass, field

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.maintenance import ReapOptions
from skillfleet_ledger.runs.records import ClaimStatus, Lease, WriteResult
from tests.ledger.audit import audit
from tests.ledger.helpers import DONE, event, read_all, settings_for, submission
from tests.support.proxy import Proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

RUNS = 120
LEASE_MS = 400
TASK = "librarian.survey"


@dataclass
class Storm:
    """A fleet in one loop: its deliveries, and the work of its workers."""

    server: ValkeyServer
    dice: random.Random
    messages: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    holders: dict[str, set[int]] = field(default_factory=dict)

    async def worker(self, name: str, proxy: Proxy) -> None:
        """Claim, write and settle delivered runs; give up where a call fails."""
        ledger = Ledger(settings_for(self.server, redis_url=proxy.url, redis_timeout_seconds=0.3))
        try:
            while True:
                run_id = await self.messages.get()
                with contextlib.suppress(FleetUnavailableError):
                    await self.attempt(ledger, name, run_id)
        finally:
            await ledger.close()

    async def attempt(self, ledger: Ledger, name: str, run_id: str) -> None:
        claim = await ledger.leases.claim(run_id, name, uuid.uuid4().hex, LEASE_MS, None)
        if claim.status is not ClaimStatus.CLAIMED or claim.lease is None:
            return
        lease = claim.lease
        assert lease.token not in self.holders.setdefault(run_id, set())
        self.holders[run_id].add(lease.token)
        seq = lease.seq
        for _ in range(self.dice.randrange(4)):
            batch = [event(str(seq + i + 1)) for i in range(self.dice.randrange(1, 5))]
            written = await ledger.streams.append(lease, seq + 1, batch)
            if written is None:
                return
            seq += len(batch)
            assert written[0] == seq
        await self.finish(ledger, lease, seq)

    async def finish(self, ledger: Ledger, lease: Lease, seq: int) -> None:
        fate = self.dice.random()
        if fate < 0.2:
            # The worker dies: this attempt does nothing more.
            return
        if fate < 0.4:
            answer = await ledger.leases.requeue(lease, seq, outcome="retry", reason="x")
            if answer is WriteResult.REQUEUED:
                self.messages.put_nowait(lease.run_id)
            return
        settled = await ledger.leases.settle(lease, TASK, seq, DONE)
        assert settled.result in (WriteResult.SETTLED, WriteResult.LOST)

    async def reaper(self, name: str, proxy: Proxy) -> None:
        ledger = Ledger(settings_for(self.server, redis_url=proxy.url, redis_timeout_seconds=0.3))
        options = ReapOptions(lock_ttl_ms=2000, grace_ms=200)
        try:
            while True:
                with contextlib.suppress(FleetUnavailableError):
                    found = await ledger.maintenance.reap(0, name, options)
                    for run_id, token, why in found.to_end if found else ():
                        await ledger.leases.end_unclaimed(
                            run_id, TASK, RunEnd(RunState.DEAD, why), token
                        )
                    for run_id in found.to_publish if found else ():
                        self.messages.put_nowait(run_id)
                await asyncio.sleep(0.02)
        finally:
            await ledger.close()

    async def weather(self, proxies: list[Proxy]) -> None:
        while True:
            await asyncio.sleep(self.dice.random() * 0.05)
            proxy = self.dice.choice(proxies)
            match self.dice.randrange(3):
                case 0:
                    proxy.cut()
                case 1:
                    proxy.cut_replies_after(self.dice.randrange(1, 2000))
                case _:
                    proxy.cut_requests_after(self.dice.randrange(1, 2000))


async def ride_out(server: ValkeyServer, seed: int) -> None:
    storm = Storm(server, random.Random(seed))
    calm = Ledger(settings_for(server))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(calm.close)
        proxies = [await stack.enter_async_context(Proxy(server.port)) for _ in range(4)]
        made = [submission(max_deliveries=4) for _ in range(RUNS)]
        for new in made:
            await calm.submissions.submit(new)
            if storm.dice.random() < 0.9:
                storm.messages.put_nowait(new.id)
            if storm.dice.random() < 0.1:
                storm.messages.put_nowait(new.id)
        parts = [storm.weather(proxies)]
        for number, proxy in enumerate(proxies):
            parts += [storm.worker(f"w{number}-{line}", proxy) for line in range(5)]
            parts.append(storm.reaper(f"w{number}", proxy))
        tasks = [asyncio.create_task(part) for part in parts]

        async def all_over() -> bool:
            if failed := [task for task in tasks if task.done()]:
                await failed[0]
            return all([(await calm.queries.state(new.id))[0].terminal for new in made])

        try:
            await wait_until_async(all_over, 60, "all runs to end")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with server.client() as client:
            assert audit(client, calm.keys) == []
        for new in made:
            events = await read_all(calm, new.id)
            assert [one.final for one in events].count(True) == 1
            assert events[-1].final
            # A run whose claims were all lost before their replies were read ends as dead.
            if events[-1].state is RunState.SUCCEEDED:
                assert storm.holders[new.id]


@pytest.mark.parametrize("storm", range(2))
async def test_every_run_ends_once_however_often_connections_break(
    valkey: ValkeyServer, storm: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    await ride_out(valkey, seed)
