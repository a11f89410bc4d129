"""The faults that wait for a moment strike at that moment, on the product as it is."""

import asyncio
import random
import re
import time
from pathlib import Path

from skillfleet.contracts import RunState
from skillfleet_producer.fleet_async import AsyncFleet, AsyncRunHandle
from tests.chaos.evidence import Journal
from tests.chaos.load import Load, Made
from tests.chaos.moments import ENDED, ENDS_A_CALLER, calls_of
from tests.chaos.orders import Order
from tests.support.proxy import Proxy, Trap
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async
from tests.worker.shared import StartWorker

CHAOS = "tests.chaos.skills"
DURABLE = "tests.chaos.durable_skills"


async def test_a_trap_lets_its_reply_pass_and_nothing_after_it(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        trap = Trap(re.compile(rb"\btwo\b"), re.compile(rb"two\r\n"))
        proxy.set_trap(trap)
        for word in (b"one", b"two", b"three"):
            writer.write(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(word), word))
        await reader.readuntil(b"two\r\n")
        assert trap.sprung.is_set()
        three = asyncio.create_task(reader.readuntil(b"three\r\n"))
        await asyncio.wait({three}, timeout=0.1)
        assert not three.done()
        proxy.release()
        await asyncio.wait_for(three, 10)
        writer.close()
        await writer.wait_closed()


async def test_a_trap_can_keep_its_reply_and_do_without_a_request(valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        trap = Trap(None, re.compile(rb"two\r\n"), passes=False)
        proxy.set_trap(trap)
        for word in (b"one", b"two"):
            writer.write(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(word), word))
        await reader.readuntil(b"one\r\n")
        await asyncio.wait_for(trap.sprung.wait(), 10)
        two = asyncio.create_task(reader.readuntil(b"two\r\n"))
        await asyncio.wait({two}, timeout=0.1)
        assert not two.done()
        proxy.release()
        await asyncio.wait_for(two, 10)
        writer.close()
        await writer.wait_closed()


async def test_late_replies_come_in_order_and_do_not_hold_one_another_up(
    valkey: ValkeyServer,
) -> None:
    async with Proxy(valkey.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.late, words = 0.3, [b"%05d" % number for number in range(200)]
        began = time.monotonic()
        for word in words:
            writer.write(b"*2\r\n$4\r\nECHO\r\n$5\r\n%s\r\n" % word)
            await asyncio.sleep(0.001)
        replies = await asyncio.wait_for(reader.readexactly(len(words) * 11), 30)
        assert time.monotonic() - began >= 0.3
        assert re.findall(rb"\d{5}", replies) == words
        writer.close()
        await writer.wait_closed()


async def test_a_worker_can_be_struck_right_after_it_ended_a_caller(
    server: ValkeyServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    async with Proxy(server.port) as proxy, AsyncFleet(server.url) as fleet:
        await asyncio.to_thread(start_worker, CHAOS, redis_url=proxy.url)
        trap = Trap(ENDS_A_CALLER, ENDED)
        proxy.set_trap(trap)
        args = {"journal": str(tmp_path / "journal"), "how": "return", "seconds": 0.5}
        run = await fleet.enqueue("chaos.leave", args | {"child_seconds": 600})
        await asyncio.wait_for(trap.sprung.wait(), 30)
        assert (await run.status()).state is RunState.SUCCEEDED
        proxy.release()


async def test_a_question_does_not_expire_early_when_the_reply_to_the_claim_was_late(
    server: ValkeyServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    async with Proxy(server.port) as proxy, AsyncFleet(server.url) as fleet:
        await asyncio.to_thread(start_worker, DURABLE, redis_url=proxy.url, reap_seconds=0.1)
        claimed = Trap(calls_of("claim"), re.compile(rb"claimed\r\n"), passes=False)
        proxy.set_trap(claimed)
        args = {"journal": str(tmp_path / "journal"), "row": ["q1"], "at_once": [], "timeout": 0.7}
        run = await fleet.enqueue("durable.questions", args)
        await asyncio.wait_for(claimed.sprung.wait(), 30)
        await asyncio.sleep(1)
        proxy.release()
        assert (await run.result(timeout=30))["q1"] == "expired"
    ((execution,),) = Journal(tmp_path / "journal").executions.values()
    asked, expired = (line.at for line in execution.lines if line.name == "q1")
    assert expired - asked >= 0.65e9


async def test_the_request_of_a_dying_canceller_arrives_and_its_tree_ends(
    server: ValkeyServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    await asyncio.to_thread(start_worker, CHAOS, lease_seconds=2, reap_seconds=0.3)
    load = Load(server.url, server.port, random.Random(1))
    args = {"journal": str(tmp_path / "journal"), "children": 2, "seconds": 600}
    run = await load.fleet.enqueue("chaos.parent", args)
    child = await wait_until_async(lambda: running_child(load, run), what="the child to run")
    made = Made(Order("chaos.parent", args, RunState.CANCELLED, cancel_after=0, dies=True))
    await load._cancel(run, made)
    assert load.died == 1
    for one in (run, load.fleet.run(child)):
        await wait_until_async(lambda one=one: has_ended(one), 30, "the tree to end")  # type: ignore[misc]
        assert (await one.status()).state is RunState.CANCELLED
    await load.finish(10)


async def running_child(load: Load, run: AsyncRunHandle) -> str:
    """The id of a called run that is being executed; '' while there is none."""
    for child in await load.fleet.ledger.queries.children(run.id):
        if (await load.fleet.run(child).status()).state is RunState.RUNNING:
            return child
    return ""


async def has_ended(run: AsyncRunHandle) -> bool:
    return (await run.status()).state.terminal
