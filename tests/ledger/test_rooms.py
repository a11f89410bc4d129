"""The stores of the ledger: the directory of agents, dead letters, and lists of runs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from skillfleet.contracts import AgentCard, RunState, SkillCard
from skillfleet_ledger import Ledger
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    newest,
    running,
    settings_for,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

CARD = AgentCard(name="librarian", queue="celery", skills=(SkillCard(name="survey"),))
NEWER = CARD.model_copy(update={"version": "2.0.0"})
OTHER = AgentCard(name="writer", queue="celery")


async def test_agents_are_listed_while_a_worker_serves_them(ledger: Ledger) -> None:
    await ledger.directory.publish("w1", [CARD, OTHER], LONG_MS)
    await ledger.directory.publish("w2", [CARD], LONG_MS)
    assert await ledger.directory.agents() == [CARD, OTHER]
    await ledger.directory.withdraw("w1", [CARD, OTHER])
    assert await ledger.directory.agents() == [CARD]
    await ledger.directory.withdraw("w2", [CARD])
    assert await ledger.directory.agents() == []


async def test_two_versions_of_an_agent_are_listed_side_by_side(ledger: Ledger) -> None:
    await ledger.directory.publish("w1", [CARD], LONG_MS)
    await ledger.directory.publish("w2", [NEWER], LONG_MS)
    assert await ledger.directory.agents() == [CARD, NEWER]


async def test_versions_are_listed_in_the_order_of_their_numbers(ledger: Ledger) -> None:
    versions = ["0.9.0", "0.10.0-rc1", "0.10.0-rc2", "0.10.0", "0.10.1+7", "1", "1.0.1"]
    cards = [CARD.model_copy(update={"version": version}) for version in versions]
    await ledger.directory.publish("w1", [*cards[::-1], OTHER], LONG_MS)
    assert await ledger.directory.agents() == [*cards, OTHER]


async def test_agents_of_a_silent_worker_lapse_but_stay_in_the_catalogue(ledger: Ledger) -> None:
    await ledger.directory.publish("w1", [CARD], 1)

    async def lapsed() -> bool:
        return await ledger.directory.agents() == []

    await wait_until_async(lapsed, what="the card to lapse")
    await ledger.directory.prune()
    assert await ledger.directory.catalogue() == [CARD]


async def test_agents_unseen_for_a_day_are_forgotten(ledger: Ledger) -> None:
    await ledger.directory.publish("w1", [CARD], LONG_MS)
    await ledger.directory.publish("w1", [OTHER], -90_000_000)
    await ledger.directory.prune()
    assert await ledger.directory.catalogue() == [CARD]


async def test_a_worker_without_agents_publishes_nothing(ledger: Ledger) -> None:
    await ledger.directory.publish("w1", [], LONG_MS)
    await ledger.directory.withdraw("w1", [])
    assert await ledger.directory.agents() == []


async def test_a_refused_message_is_kept_with_its_reason(ledger: Ledger) -> None:
    await ledger.dead_letters.add("not JSON", b"\xff{")
    await ledger.dead_letters.add("too large", b"x" * 100_000)
    newest, oldest = await ledger.dead_letters.list()
    assert (oldest.reason, oldest.body) == ("not JSON", "\ufffd{")
    assert (newest.reason, len(newest.body)) == ("too large", 16 * 1024)
    assert oldest.at <= newest.at
    assert len(await ledger.dead_letters.list(limit=1)) == 1
    assert await ledger.dead_letters.purge() == 2
    assert await ledger.dead_letters.list() == []


async def test_refused_messages_are_bounded(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.dead_letters.add("bad", b"x") for _ in range(10_500)))
    assert await touch(ledger, "XLEN", "x", "dead_letters") <= 10_200


async def test_no_run_is_missing_from_a_list_while_it_changes_its_state(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    """Each read of an index is followed by a change, so that a run moves on between all of them."""

    async def live_through(run_id: str) -> None:
        lease = await claimed(changing, run_id)
        await changing.leases.settle(lease, "librarian.survey", lease.seq, DONE)

    changing = Ledger(settings_for(valkey))
    try:
        ids = {(await submitted(ledger)).id for _ in range(40)}
        changes = asyncio.create_task(_one_after_another(live_through, sorted(ids)))
        lists = 0
        while not changes.done():
            assert {run.id for run in await newest(ledger, limit=100)} == ids
            lists += 1
        await changes
        assert lists > 1
    finally:
        await changing.close()


async def _one_after_another(act: Callable[[str], Awaitable[None]], items: Sequence[str]) -> None:
    for item in items:
        await act(item)


async def test_runs_are_listed_newest_first_by_state_and_agent(ledger: Ledger) -> None:
    made = []
    for number in range(12):
        agent = "writer" if number % 3 == 0 else "librarian"
        lease = await running(ledger, agent=agent)
        if number % 2:
            await ledger.leases.settle(lease, f"{agent}.survey", lease.seq, DONE)
        made.append((agent, bool(number % 2), lease.run_id))
        # Runs of the same millisecond have no order.
        await asyncio.sleep(0.002)
    made.append(("librarian", False, (await submitted(ledger)).id))
    expected = [run_id for _, _, run_id in reversed(made)]
    assert [run.id for run in await newest(ledger)] == expected
    assert [run.id for run in await newest(ledger, limit=3)] == expected[:3]
    succeeded = await newest(ledger, state=RunState.SUCCEEDED)
    assert [run.id for run in succeeded] == [i for _, ended, i in reversed(made) if ended]
    writers = await newest(ledger, agent="writer")
    assert [run.id for run in writers] == [i for agent, _, i in reversed(made) if agent == "writer"]
    both = await newest(ledger, state=RunState.RUNNING, agent="writer", limit=1)
    assert [run.name for run in both] == ["writer.survey"]
    assert await newest(ledger, agent="unknown") == []


async def test_a_rare_state_is_found_among_many_other_runs(ledger: Ledger) -> None:
    rare = await running(ledger)
    await asyncio.gather(*(submitted(ledger) for _ in range(450)))
    found = await newest(ledger, state=RunState.RUNNING, agent="librarian")
    assert [run.id for run in found] == [rare.run_id]


async def test_fleets_of_different_namespaces_do_not_see_each_other(valkey: ValkeyServer) -> None:
    one = Ledger(settings_for(valkey, namespace="one"))
    two = Ledger(settings_for(valkey, namespace="two", shards=4))
    try:
        lease = await running(one)
        await two.leases.renew("w2", LONG_MS, {}, timeout=5)
        await one.directory.publish("w1", [CARD], LONG_MS)
        await one.leases.settle(lease, "librarian.survey", lease.seq, DONE)
        assert await newest(two) == []
        assert await two.queries.invocation(lease.run_id) is None
        assert await two.directory.agents() == []
        assert await one.directory.workers() == []
        keys = await one.connection.execute("KEYS", "*")
        assert {key.decode().lstrip("{")[:4] for key in keys} == {"one:", "two:"}
    finally:
        await one.close()
        await two.close()
