"""Search of runs: what pages hold, where they go on, and what leaves the indexes."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skillfleet.contracts import RunState, RunStatus
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs import search
from skillfleet_ledger.runs.records import Submission
from skillfleet_ledger.runs.search import RunFilter, RunPage
from tests.ledger.audit import audit
from tests.ledger.durable import opened, parked
from tests.ledger.helpers import (
    claimed,
    expiring_entry,
    newest,
    reap,
    running,
    settings_for,
    submission,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

TASK = "librarian.survey"
AGENTS = ("librarian", "writer")
TENANTS = ("acme", "umbrella", "x=y | z")
ENDS = {
    RunState.SUCCEEDED: "completed",
    RunState.FAILED: "skill_error",
    RunState.DEAD: "worker_lost",
}


@pytest.fixture(params=[1, 4])
async def sharded(request: pytest.FixtureRequest, valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """A ledger of one shard, and one of four."""
    ledger = Ledger(settings_for(valkey, shards=request.param))
    yield ledger
    await ledger.close()
    with valkey.client() as client:
        assert audit(client, ledger.keys) == []


async def settled(ledger: Ledger, new: Submission, state: RunState = RunState.SUCCEEDED) -> None:
    lease = await claimed(ledger, new.id)
    await ledger.leases.settle(lease, new.task, lease.seq, RunEnd(state, ENDS[state]))


async def random_runs(ledger: Ledger, draw: random.Random, number: int) -> list[str]:
    """Make runs of all kinds, many of the same millisecond; return their ids."""

    async def one() -> str:
        tags = {"tenant": draw.choice(TENANTS)} if draw.random() < 0.7 else {}
        if draw.random() < 0.3:
            tags["plan"] = "pro"
        new = await submitted(ledger, agent=draw.choice(AGENTS), tags=tags)
        if draw.random() < 0.7:
            if (state := draw.choice([None, *ENDS])) is None:
                await claimed(ledger, new.id)
            else:
                await settled(ledger, new, state)
        return new.id

    return list(await asyncio.gather(*(one() for _ in range(number))))


def random_filter(draw: random.Random, runs: list[RunStatus]) -> RunFilter:
    tags = {"tenant": draw.choice([*TENANTS, "unknown"])} if draw.random() < 0.5 else {}
    if draw.random() < 0.3:
        tags["plan"] = draw.choice(["pro", "none"])
    states = [None, RunState.QUEUED, RunState.RUNNING, *ENDS, RunState.CANCELLED]
    since = draw.choice(runs).created_at.timestamp() * 1000 if draw.random() < 0.3 else 0
    agent = draw.choice([None, None, *AGENTS])
    return RunFilter(draw.choice(states), agent, tags, round(since))


def fits(run: RunStatus, wanted: RunFilter) -> bool:
    return (
        wanted.state in (None, run.state)
        and wanted.agent in (None, run.agent)
        and wanted.tags.items() <= run.tags.items()
        and run.created_at.timestamp() * 1000 >= wanted.since_ms - 0.5
    )


def order(run: RunStatus) -> tuple[Any, str]:
    return run.created_at, run.id


async def all_pages(ledger: Ledger, wanted: RunFilter, limit: int) -> list[RunPage]:
    pages = [await ledger.search.page(wanted, limit=limit)]
    while (cursor := pages[-1].cursor) is not None:
        pages.append(await ledger.search.page(wanted, limit=limit, after=cursor))
    return pages


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most_read", [0, 1000])
async def test_pages_hold_what_a_naive_filter_finds(
    sharded: Ledger, monkeypatch: pytest.MonkeyPatch, seed: int, most_read: int
) -> None:
    """With few entries a page, indexes of live runs are walked by creation, too."""
    monkeypatch.setattr(search, "_MOST_READ", most_read)
    draw = random.Random(seed)
    ids = await random_runs(sharded, draw, 60)
    runs = [run for run in await sharded.search.statuses(ids) if run is not None]
    for _ in range(25):
        wanted, limit = random_filter(draw, runs), draw.choice([1, 3, 7, 100])
        expected = sorted((run for run in runs if fits(run, wanted)), key=order, reverse=True)
        pages = await all_pages(sharded, wanted, limit)
        assert [run.id for page in pages for run in page] == [run.id for run in expected], wanted
        assert all(len(page) <= limit for page in pages)


async def test_a_page_reads_a_bounded_number_of_entries_and_says_where_to_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_MOST_READ", 10)
    rare = await submitted(ledger, tags={"tenant": "acme"})
    await settled(ledger, rare)
    for _ in range(30):
        await submitted(ledger, tags={"tenant": "acme"})
    wanted = RunFilter(RunState.SUCCEEDED, tags={"tenant": "acme"})
    pages = await all_pages(ledger, wanted, limit=2)
    assert [len(page) for page in pages] == [0, 0, 1]


async def test_a_list_that_is_read_to_its_end_has_no_cursor(ledger: Ledger) -> None:
    made = [await submitted(ledger) for _ in range(3)]
    assert (await newest(ledger, 3)).cursor is None
    assert (await newest(ledger, 3, state=RunState.QUEUED)).cursor is None
    page = await newest(ledger, 2)
    assert page.cursor is not None
    last = await ledger.search.page(limit=2, after=page.cursor)
    assert {run.id for run in [*page, *last]} == {new.id for new in made}
    assert last.cursor is None


async def test_the_cost_of_a_rare_pair_depends_on_the_smaller_index(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    await settled(ledger, await submitted(ledger, tags={"tenant": "acme"}), RunState.DEAD)
    for number in range(50):
        new = await submitted(ledger, tags={"tenant": "acme", "number": str(number)})
        await settled(ledger, new)
    for _ in range(20):
        await settled(ledger, await submitted(ledger, tags={"tenant": "x"}), RunState.DEAD)
    for conditions in ({"state": RunState.DEAD}, {"tags": {"tenant": "acme", "number": "7"}}):
        wanted = RunFilter(**({"tags": {"tenant": "acme"}} | conditions))
        with valkey.client() as client:
            client.config_resetstat()
            assert len(await ledger.search.page(wanted)) == 1
            calls = client.info("commandstats")
        assert calls["cmdstat_hmget"]["calls"] == 2  # search and snapshot


async def test_a_rare_live_state_is_found_in_its_own_index(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    await running(ledger)
    for _ in range(20):
        await settled(ledger, await submitted(ledger))
    with valkey.client() as client:
        client.config_resetstat()
        assert len(await newest(ledger, state=RunState.RUNNING)) == 1
        calls = client.info("commandstats")
    assert calls["cmdstat_hmget"]["calls"] == 2  # search and snapshot


async def test_delayed_and_ready_runs_are_both_queued(ledger: Ledger) -> None:
    made = [await submitted(ledger, delay_ms=60_000), await submitted(ledger, queue="other")]
    found = await newest(ledger, state=RunState.QUEUED)
    assert {run.id for run in found} == {new.id for new in made}


async def test_a_run_that_waits_is_waiting_whether_it_is_parked_or_not(ledger: Ledger) -> None:
    runs, waiting, idle = [await running(ledger) for _ in range(3)]
    await opened(ledger, waiting)
    await parked(ledger, idle)
    assert [run.id for run in await newest(ledger, state=RunState.RUNNING)] == [runs.run_id]
    found = await newest(ledger, state=RunState.WAITING)
    assert {run.id for run in found} == {waiting.run_id, idle.run_id}


async def test_a_session_is_found_with_other_conditions(sharded: Ledger) -> None:
    """It lies on one shard; another caller's of the same id is another one."""

    async def of_session(name: str, **values: Any) -> Submission:
        return await submitted(sharded, id=sharded.keys.new_id(beside=name), session=name, **values)

    async def found(session: str, **conditions: Any) -> list[str]:
        return [run.id for run in await newest(sharded, session=session, **conditions)]

    first = await of_session("ann/chat", tags={"tenant": "acme"})
    await settled(sharded, first, RunState.FAILED)
    second = await of_session("ann/chat", agent="writer", tags={"tenant": "acme"})
    third = await of_session("ann/chat")
    other = await of_session("bob/chat", tags={"tenant": "acme"})
    await submitted(sharded)
    assert set(await found("ann/chat")) == {first.id, second.id, third.id}
    assert await found("bob/chat") == [other.id]
    assert await found("chat") == []
    assert await found("ann/chat", agent="writer") == [second.id]
    assert set(await found("ann/chat", tags={"tenant": "acme"})) == {first.id, second.id}
    assert await found("ann/chat", state=RunState.FAILED) == [first.id]
    assert await found("bob/chat", state=RunState.FAILED) == []
    assert set(await found("ann/chat", state=RunState.QUEUED)) == {second.id, third.id}


async def test_the_cost_of_a_session_depends_on_its_runs(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    await settled(ledger, await submitted(ledger, session="/chat"))
    for _ in range(30):
        await settled(ledger, await submitted(ledger))
    with valkey.client() as client:
        client.config_resetstat()
        assert len(await newest(ledger, session="/chat")) == 1
        calls = client.info("commandstats")
    assert calls["cmdstat_hmget"]["calls"] == 2  # search and snapshot


async def test_tags_are_kept_in_the_record(ledger: Ledger) -> None:
    tags = {"tenant": "acme", "b": "x=y", "a": "Zürich 1|2"}
    new = await submitted(ledger, tags=tags)
    assert (await ledger.queries.status(new.id)).tags == tags
    assert (await ledger.queries.status((await submitted(ledger)).id)).tags == {}


@pytest.mark.parametrize("after", ["", "x", "1-", "-1-x", f"{10**16}-x"])
async def test_only_a_cursor_continues_a_list(ledger: Ledger, after: str) -> None:
    with pytest.raises(ValueError, match="after must be the cursor of a page"):
        await ledger.search.page(after=after)


@pytest.mark.parametrize("limit", [0, 10_001])
async def test_the_length_of_a_page_is_bounded(ledger: Ledger, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be 1 to 10000"):
        await ledger.search.page(limit=limit)


async def test_an_expired_run_leaves_all_indexes(ledger: Ledger) -> None:
    tags = {"tenant": "acme|1", "plan": "pro"}
    more: dict[str, Any] = {"retention_ms": 1, "tags": tags, "session": "ann/chat|1\nb"}
    for state in (RunState.SUCCEEDED, RunState.FAILED):
        await settled(ledger, await submitted(ledger, **more), state)
    pruned = 0

    async def prune() -> bool:
        nonlocal pruned
        pruned += (await reap(ledger)).counts["pruned"]
        return pruned == 2

    await wait_until_async(prune, what="both runs to be forgotten")
    keys = await ledger.connection.execute("KEYS", f"{ledger.keys.prefix('x')}index:*")
    assert keys == []


async def test_a_run_that_its_key_brought_back_is_found_as_it_is_now(ledger: Ledger) -> None:
    """Its former life had other tags, and failed; its entries lapse after the new run began."""
    more: dict[str, Any] = {"retention_ms": 1, "session": "/former"}
    first = await submitted(ledger, tags={"tenant": "acme", "plan": "pro"}, **more)
    await settled(ledger, first, RunState.FAILED)

    async def expired() -> bool:
        return await ledger.queries.invocation(first.id) is None

    await wait_until_async(expired, what="the first run to expire")
    await submitted(ledger, id=first.id, session="/later", tags={"tenant": "acme", "plan": "free"})

    async def found(**conditions: Any) -> list[str]:
        return [run.id for run in await newest(ledger, **conditions)]

    for _ in range(2):
        assert await found(tags={"plan": "pro"}) == []
        assert await found(tags={"tenant": "acme", "plan": "pro"}) == []
        assert await found(state=RunState.FAILED) == []
        assert await found(session="/former") == []
        assert await found(session="/later") == [first.id]
        for tags in ({"tenant": "acme"}, {"plan": "free"}, {}):
            assert await found(tags=tags, agent="librarian") == [first.id]
        entry = expiring_entry(first, "failed", "plan=pro\ntenant=acme", "/former")
        await touch(ledger, "ZADD", first.id, "expiring", "XX", 1, entry)
        await reap(ledger)
    assert await touch(ledger, "EXISTS", "x", "index:tag:plan=pro") == 0
    assert await touch(ledger, "EXISTS", "x", "index:state:failed:all") == 0
    assert await touch(ledger, "EXISTS", "x", "index:session:/former") == 0
    assert await touch(ledger, "EXISTS", "x", "expiring") == 0


async def test_an_unreadable_record_is_left_out_of_a_page(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey))
    try:
        sound, *broken = [await submitted(ledger) for _ in range(4)]
        for new, (command, *args) in zip(
            broken,
            (("HSET", "created", "x"), ("HSET", "state", "odd"), ("DEL",)),
            strict=True,
        ):
            await touch(ledger, command, new.id, f"run:{new.id}", *args)
        await touch(ledger, "LPUSH", "x", f"run:{broken[-1].id}", "a list")
        for state in (None, RunState.QUEUED):
            assert [run.id for run in await newest(ledger, state=state)] == [sound.id]
    finally:
        await ledger.close()


async def test_an_invalid_entry_of_the_index_of_expiry_is_removed(ledger: Ledger) -> None:
    await touch(ledger, "ZADD", "x", "expiring", 1, "nonsense")
    assert (await reap(ledger)).counts["pruned"] == 1
    assert await touch(ledger, "EXISTS", "x", "expiring") == 0


async def test_no_run_is_missed_or_seen_twice_while_runs_end(ledger: Ledger) -> None:
    made = [await submitted(ledger) for _ in range(30)]
    seen: list[str] = []
    page = await newest(ledger, 7)
    while True:
        seen += [run.id for run in page]
        await settled(ledger, submission(id=made[len(seen) - 1].id))
        if page.cursor is None:
            break
        page = await ledger.search.page(limit=7, after=page.cursor)
    assert sorted(seen) == sorted(new.id for new in made)
