"""Forks: new runs that begin with recorded steps, on the shard of the run that they fork."""

from collections.abc import AsyncIterator

import orjson
import pytest

from skillfleet.contracts import HEADER, Fork, InvocationHeader
from skillfleet.errors import InvalidArgumentsError, UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_producer import AsyncFleet, Fleet, Settings
from tests.ledger.helpers import claimed, settings_for
from tests.support.valkey import ValkeyServer
from tests.support.waiter import Waiter

SHARDS = 7


@pytest.fixture
async def ledger(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings_for(valkey, shards=SHARDS))
    yield ledger
    await ledger.close()


@pytest.fixture
async def producer(valkey: ValkeyServer) -> AsyncIterator[AsyncFleet]:
    settings = Settings.load(redis_url=valkey.producer_url, shards=SHARDS)
    async with AsyncFleet(settings=settings) as fleet:
        yield fleet


@pytest.fixture
async def waiter(ledger: Ledger, producer: AsyncFleet) -> Waiter:
    """A run of two recorded steps."""
    run = await producer.enqueue(
        "librarian.survey", {"folder": "."}, auth={"sub": "ada"}, priority=6, tags={"team": "blue"}
    )
    waiter = Waiter(ledger, await claimed(ledger, run.id))
    for name in ("fetch", "draft", "fetch"):
        await waiter.records(name, b"1")
    return waiter


def header_of(headers: bytes) -> InvocationHeader:
    return InvocationHeader.model_validate(orjson.loads(headers)[HEADER])


@pytest.mark.parametrize(("at_step", "before"), [(None, None), ("fetch", 1), ("draft", 2), (3, 3)])
async def test_a_fork_has_the_same_skill_arguments_caller_queue_and_priority(
    waiter: Waiter, producer: AsyncFleet, at_step: int | str | None, before: int | None
) -> None:
    former = producer.run(waiter.lease.run_id)
    fork = await former.fork(at_step)
    assert fork.id != former.id
    keys = producer.ledger.keys
    assert keys.shard(fork.id) == keys.shard(former.id)
    one, other = await fork.invocation(), await former.invocation()
    assert one is not None
    assert other is not None
    assert (one.task, one.args, one.queue) == (other.task, other.args, other.queue)
    assert (one.priority, one.parent_id) == (other.priority, None)
    status = await fork.status()
    assert (status.tags, status.fork_of) == ({"team": "blue"}, former.id)
    assert (await former.status()).fork_of is None
    header = header_of(one.headers)
    assert header.fork == Fork(run=former.id, before=before)
    assert header.auth == {"sub": "ada"}


async def test_a_fork_may_have_other_arguments_and_another_caller(
    waiter: Waiter, producer: AsyncFleet
) -> None:
    former = producer.run(waiter.lease.run_id)
    fork = await former.fork("draft", {"folder": "x"}, auth={"sub": "bob"})
    invocation = await fork.invocation()
    assert invocation is not None
    assert orjson.loads(invocation.args) == {"folder": "x"}
    assert header_of(invocation.headers).auth == {"sub": "bob"}


async def test_a_fork_belongs_to_no_session(producer: AsyncFleet) -> None:
    former = await producer.enqueue("librarian.survey", {"folder": "."}, session="chat")
    fork = await former.fork()
    assert ((await former.status()).session, (await fork.status()).session) == ("chat", None)
    assert (await fork.status()).held is None
    invocation = await fork.invocation()
    assert invocation is not None
    assert header_of(invocation.headers).session is None


async def test_an_unknown_step_or_run_is_refused(waiter: Waiter, producer: AsyncFleet) -> None:
    former = producer.run(waiter.lease.run_id)
    for at_step in ("charge", 4, 0):
        with pytest.raises(InvalidArgumentsError, match="1 fetch, 2 draft, 3 fetch"):
            await former.fork(at_step)
    with pytest.raises(UnknownRunError):
        await producer.run("no-run").fork()


def test_the_synchronous_fleet_forks_too(valkey: ValkeyServer) -> None:
    with Fleet(valkey.producer_url) as fleet:
        run = fleet.enqueue("librarian.survey", {"folder": "."})
        fork = run.fork()
        assert fork.id != run.id
        assert fork.status().name == "librarian.survey"
