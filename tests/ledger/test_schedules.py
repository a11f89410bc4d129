"""Schedules in the ledger: replaced, moved on by one reader, bounded; what will be due."""

from typing import Any

import pytest

from skillfleet.errors import LimitExceededError, UnknownScheduleError
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import WriteResult
from skillfleet_ledger.runs.schedules import StoredSchedule
from tests.ledger.durable import ask, decided, last, opened, parked
from tests.ledger.helpers import (
    LONG_MS,
    claimed,
    reap,
    running,
    settings_for,
    submission,
    submitted,
    touch,
)
from tests.ledger.test_queues import stats_of
from tests.support.valkey import ValkeyServer

FAR_MS = 4_000_000_000_000
EACH_HOUR = {"cron": "0 * * * *", "every": None, "timezone": "UTC"}
EACH_DAY = EACH_HOUR | {"cron": "0 0 * * *"}


def schedule(name: str = "nightly", **values: Any) -> StoredSchedule:
    """Return a schedule that is due in the far future."""
    defaults: dict[str, Any] = {
        "skill": "librarian.survey",
        "times": EACH_HOUR,
        "args": b'{"folder":"."}',
        "options": {"timeout": 5},
        "overlap": "skip",
        "catch_up": 2,
        "queue": "celery",
        "generation": "one",
        "anchor_ms": 7,
        "next_ms": FAR_MS,
    }
    return StoredSchedule(name, **(defaults | values))


async def now_ms(ledger: Ledger) -> int:
    return await ledger.directory.now_ms()


async def members(ledger: Ledger, key: str) -> list[Any]:
    return [each.decode() for each in await touch(ledger, "ZRANGE", "nightly", key, 0, -1)]


async def test_what_is_put_is_read_again(ledger: Ledger) -> None:
    before = await now_ms(ledger)
    new = schedule(delegation="signed")
    assert await ledger.schedules.put(new)
    found = await ledger.schedules.get("nightly")
    assert before <= found.created_ms <= await now_ms(ledger)
    assert found == new._replace(created_ms=found.created_ms)
    assert await ledger.schedules.names(0) == ["nightly"]


async def test_an_unknown_one_is_reported(ledger: Ledger) -> None:
    for work in (
        ledger.schedules.get("other"),
        ledger.schedules.change(schedule("other"), 1, {}),
    ):
        with pytest.raises(UnknownScheduleError, match="there is no schedule 'other'"):
            await work
    assert not await ledger.schedules.note_run(schedule("other"), "run", is_any=True)
    assert not await ledger.schedules.remove("other")
    assert await touch(ledger, "EXISTS", "other", "schedule:other") == 0


async def test_one_with_the_same_times_keeps_what_only_the_ledger_knows(ledger: Ledger) -> None:
    first = schedule()
    await ledger.schedules.put(first)
    state = {"last": "run", "last_due": 5, "problem": "none served it", "waiting": "3,4"}
    await ledger.schedules.change(first, FAR_MS + 1, state)
    created = (await ledger.schedules.get("nightly")).created_ms
    again = schedule(next_ms=FAR_MS + 99, anchor_ms=99, generation="two", args=b"{}", catch_up=3)
    assert not await ledger.schedules.put(again)
    found = await ledger.schedules.get("nightly")
    assert (found.next_ms, found.anchor_ms, found.generation) == (FAR_MS + 1, 7, "one")
    assert (found.last, found.last_ms, found.waiting) == ("run", 5, (3, 4))
    assert (found.args, found.catch_up, found.problem) == (b"{}", 3, "")
    assert found.created_ms == created


async def test_one_with_other_times_begins_anew(ledger: Ledger) -> None:
    await ledger.schedules.put(schedule())
    await ledger.schedules.change(schedule(), FAR_MS, {"waiting": "3,4"})
    other = schedule(times=EACH_DAY, next_ms=FAR_MS + 99, anchor_ms=99, generation="two")
    assert not await ledger.schedules.put(other)
    found = await ledger.schedules.get("nightly")
    assert (found.next_ms, found.anchor_ms, found.generation) == (FAR_MS + 99, 99, "one")
    assert (found.times, found.waiting) == (EACH_DAY, ())
    assert await touch(ledger, "ZSCORE", "nightly", "schedules", "nightly") == b"4000000000099"


async def test_a_paused_one_stays_paused_when_it_is_replaced(ledger: Ledger) -> None:
    await ledger.schedules.put(schedule())
    await ledger.schedules.change(schedule(), None, {"paused": "1"}, is_any=True)
    for times in (EACH_HOUR, EACH_DAY):
        await ledger.schedules.put(schedule(times=times))
        found = await ledger.schedules.get("nightly")
        assert (found.paused, found.next_ms) == (True, None)
    assert await touch(ledger, "ZSCORE", "nightly", "schedules", "nightly") == b"inf"
    assert await members(ledger, "alarms") == []
    await ledger.schedules.change(found, FAR_MS, {"paused": ""}, is_any=True)
    assert await members(ledger, "alarms") == ["celery|schedule:nightly"]


async def test_it_moves_on_only_from_the_time_that_was_read(ledger: Ledger) -> None:
    await ledger.schedules.put(schedule())
    read = await ledger.schedules.get("nightly")
    assert await ledger.schedules.change(read, FAR_MS + 1, {"last": "first"})
    assert not await ledger.schedules.change(read, FAR_MS + 2, {"last": "second"})
    assert not await ledger.schedules.note_run(read, "third", is_any=False)
    found = await ledger.schedules.get("nightly")
    assert (found.next_ms, found.last) == (FAR_MS + 1, "first")
    assert await ledger.schedules.note_run(found, "fourth", is_any=False)
    assert await ledger.schedules.note_run(read, "fifth", is_any=True)
    found = await ledger.schedules.get("nightly")
    assert (found.next_ms, found.last, found.queue) == (FAR_MS + 1, "fifth", "celery")


async def test_those_that_are_due_are_listed_by_redis_time(ledger: Ledger) -> None:
    for name, moment in (("late", 1000), ("later", 2000), ("future", FAR_MS), ("never", None)):
        await ledger.schedules.put(schedule(name, next_ms=moment))
    before = await now_ms(ledger)
    now, names = await ledger.schedules.due(0, 10)
    assert before <= now <= await now_ms(ledger)
    assert names == ["late", "later"]
    assert (await ledger.schedules.due(0, 1))[1] == ["late"]
    assert await ledger.schedules.names(0) == ["late", "later", "future", "never"]


async def test_one_whose_occurrences_wait_is_looked_at_in_each_round(ledger: Ledger) -> None:
    await ledger.schedules.put(schedule())
    await ledger.schedules.change(schedule(), FAR_MS, {"waiting": "3"})
    assert (await ledger.schedules.due(0, 10))[1] == ["nightly"]
    await ledger.schedules.change(schedule(), None, {"paused": "1"}, is_any=True)
    assert (await ledger.schedules.due(0, 10))[1] == []
    await ledger.schedules.change(schedule(), FAR_MS, {"paused": "", "waiting": ""}, is_any=True)
    assert (await ledger.schedules.due(0, 10))[1] == []


async def test_a_removed_one_leaves_nothing(ledger: Ledger) -> None:
    await ledger.schedules.put(schedule())
    assert await ledger.schedules.remove("nightly")
    keys = ("schedule:nightly", "schedules", "alarms")
    assert [await touch(ledger, "EXISTS", "x", key) for key in keys] == [0, 0, 0]


@pytest.mark.parametrize("shards", [1, 7])
async def test_a_fleet_has_a_bounded_number(valkey: ValkeyServer, shards: int) -> None:
    ledger = Ledger(settings_for(valkey, max_schedules=3, shards=shards))
    try:
        for name in "abc":
            await ledger.schedules.put(schedule(name))
        with pytest.raises(LimitExceededError, match=r"3 schedules.*SKILLFLEET_MAX_SCHEDULES"):
            await ledger.schedules.put(schedule("d"))
        assert not await ledger.schedules.put(schedule("a"))
        await ledger.schedules.remove("b")
        assert await ledger.schedules.put(schedule("d"))
        found = [name for shard in range(shards) for name in await ledger.schedules.names(shard)]
        assert sorted(found) == ["a", "c", "d"]
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("next", "soon"),
        ("next", "9999999999999999"),
        ("next", "-1"),
        ("args", None),
        ("times", "[]"),
        ("times", "{"),
        ("catch_up", "x"),
        ("skill", b"\xff"),
        ("waiting", "1,x"),
    ],
)
async def test_an_unreadable_one_is_unknown(unaudited: Ledger, field: str, value: Any) -> None:
    ledger = unaudited
    await ledger.schedules.put(schedule())
    change = ("HDEL", field) if value is None else ("HSET", field, value)
    await touch(ledger, change[0], "nightly", "schedule:nightly", *change[1:])
    with pytest.raises(UnknownScheduleError):
        await ledger.schedules.get("nightly")
    await ledger.schedules.set_aside("nightly", FAR_MS)
    await ledger.schedules.set_aside("other", FAR_MS)
    assert await members(ledger, "schedules") == ["nightly"]
    assert (await ledger.schedules.due(0, 5))[1] == []


async def test_a_schedule_is_demand_half_a_minute_before_it_is_due(ledger: Ledger) -> None:
    now = await now_ms(ledger)
    await ledger.schedules.put(schedule("soon", next_ms=now + 20_000, queue="a"))
    await ledger.schedules.put(schedule("overdue", next_ms=now - 20_000, queue="a"))
    await ledger.schedules.put(schedule("later", next_ms=now + LONG_MS, queue="a"))
    await ledger.schedules.put(schedule("distant", next_ms=now + LONG_MS, queue="b"))
    stats = await stats_of(ledger)
    assert (stats["a"].due, stats["a"].demand) == (2, 2)
    assert "b" not in stats
    soon = await ledger.schedules.get("soon")
    await ledger.schedules.change(soon, soon.next_ms, {}, queue="b")
    stats = await stats_of(ledger)
    assert (stats["a"].due, stats["b"].due) == (1, 1)
    await ledger.schedules.put(schedule("overdue", next_ms=now - 20_000, queue="b"))
    assert (await stats_of(ledger))["b"].due == 2


async def test_a_delay_that_ends_soon_is_demand(ledger: Ledger) -> None:
    soon = await submitted(ledger, delay_ms=20_000)
    await submitted(ledger, delay_ms=LONG_MS)
    stats = (await stats_of(ledger))["celery"]
    assert (stats.delayed, stats.due, stats.demand) == (2, 1, 1)
    await ledger.cancellation.cancel(soon.id, "enough")
    assert (await stats_of(ledger))["celery"].due == 0
    short = await submitted(ledger, delay_ms=1)
    while not (await reap(ledger)).to_publish:
        pass
    stats = (await stats_of(ledger))["celery"]
    assert (stats.due, stats.queued) == (0, 1)
    lease = await claimed(ledger, short.id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x", delay_ms=5000)
    stats = (await stats_of(ledger))["celery"]
    assert (stats.due, stats.running, stats.demand) == (1, 0, 1)


async def test_what_lost_its_record_is_demand_for_a_minute_at_most(unaudited: Ledger) -> None:
    ledger = unaudited
    new = submission(delay_ms=20_000)
    await ledger.submissions.submit(new)
    await touch(ledger, "DEL", new.id, f"run:{new.id}")
    now = await now_ms(ledger)
    await touch(ledger, "ZADD", new.id, "alarms", now - 61_000, f"celery|{new.id}")
    await touch(ledger, "ZADD", new.id, "alarms", now - 50_000, "celery|another")
    await reap(ledger)
    assert await members(ledger, "alarms") == ["celery|another"]


async def test_the_first_timer_of_a_parked_run_is_demand_until_it_continues(
    ledger: Ledger,
) -> None:
    now = await now_ms(ledger)

    async def due() -> int:
        return (await stats_of(ledger, "celery"))["celery"].due

    asleep = await running(ledger)
    wait_id = await parked(ledger, asleep, expires_ms=now + 20_000)
    asked = await running(ledger)
    await parked(ledger, asked)
    far = await running(ledger)
    await parked(ledger, far, expires_ms=now + LONG_MS)
    assert await due() == 1
    both = await running(ledger)
    waits = [(await opened(ledger, both, ask(str(n)), now + n)).wait_id for n in (LONG_MS, 10_000)]
    seq = await last(ledger, both.run_id)
    assert await ledger.leases.park(both, seq, waits) is WriteResult.PARKED
    assert await due() == 2
    await decided(ledger, asleep.run_id, wait_id)
    assert await due() == 1
    await ledger.cancellation.cancel(both.run_id, "enough")
    assert await due() == 0
    assert await members(ledger, "alarms") == [f"celery|{far.run_id}"]
