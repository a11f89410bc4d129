"""Rounds over schedules: each occurrence is one run, whatever dies."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from skillfleet.contracts import Schedule
from skillfleet_ledger import Ledger
from skillfleet_producer import AsyncFleet
from skillfleet_producer.publisher import publisher_for
from skillfleet_producer.scheduling import Scheduling
from skillfleet_producer.timing import MOST_AT_ONCE
from skillfleet_worker.services.schedules import ScheduleRounds
from skillfleet_worker.settings import WorkerSettings
from tests.ledger.helpers import DONE, claimed
from tests.support.valkey import ValkeyServer

DAY_MS = 86_400_000
SHARD = "{skillfleet:0}:"
ASIDE: dict[str, Any] = {"tags": {"team": "red"}, "session": "chat"}


class Bench:
    """A fleet without workers, whose rounds the test plays."""

    def __init__(self, url: str) -> None:
        self.settings = WorkerSettings.load(redis_url=url)
        self.ledger = Ledger(self.settings)
        self.fleet = AsyncFleet(ledger=self.ledger)
        self.scheduling = Scheduling(self.ledger, self.fleet.enqueuer)

    def rounds(self) -> ScheduleRounds:
        """The rounds of a worker that is reaper."""
        return ScheduleRounds(self.ledger, publisher_for(self.ledger), self.settings)

    async def round(self) -> None:
        """Play a round of another worker."""
        await self.rounds().round(0)

    async def make(self, name: str = "s", late: float = 0.0, **options: Any) -> int:
        """Make a schedule for each minute that is overdue since `late` seconds; return when."""
        await self.fleet.schedule(name, "kit.add", {"x": 1}, **({"every": 60} | options))
        return await self.overdue(name, late)

    async def overdue(self, name: str, late: float) -> int:
        """Set a schedule's next occurrence into the past, as if no reaper had been there."""
        stored = await self.ledger.schedules.get(name)
        due = await self.ledger.directory.now_ms() - int(late * 1000)
        key = f"{SHARD}schedule:{name}"
        await self.ledger.connection.execute("HSET", key, "anchor", due - DAY_MS)
        await self.ledger.schedules.change(stored, due, {}, is_any=True)
        return due

    async def get(self, name: str = "s") -> Schedule:
        """The schedule."""
        return await self.scheduling.get(name)

    async def runs(self) -> list[str]:
        """The ids of all runs, the oldest first."""
        return [status.id for status in reversed(await self.fleet.runs(limit=1000))]

    async def end(self, run_id: str) -> None:
        """End a run as a worker does."""
        lease = await claimed(self.ledger, run_id)
        await self.ledger.leases.settle(lease, "kit.add", lease.seq, DONE)


@pytest.fixture
async def bench(valkey: ValkeyServer) -> AsyncIterator[Bench]:
    bench = Bench(valkey.url)
    try:
        yield bench
    finally:
        await bench.fleet.close()


async def test_what_is_due_is_enqueued_with_the_options_of_the_schedule(bench: Bench) -> None:
    due = await bench.make(timeout=600, priority=6, queue="another", auth={"sub": "ada"}, **ASIDE)
    await bench.round()
    (run_id,) = await bench.runs()
    status = await bench.fleet.run(run_id).status()
    assert (status.name, status.queue) == ("kit.add", "another")
    assert status.deadline is not None
    assert (status.tags, status.session) == ({"team": "red"}, "chat")
    invocation = await bench.fleet.run(run_id).invocation()
    assert invocation is not None
    assert (orjson.loads(invocation.args), invocation.priority) == ({"x": 1}, 6)
    assert orjson.loads(invocation.headers)["skillfleet"]["auth"] == {"sub": "ada"}
    shown = await bench.get()
    assert (shown.last_run, shown.problem) == (run_id, None)
    assert shown.last_at is not None
    assert shown.next_at is not None
    assert shown.last_at.timestamp() * 1000 == pytest.approx(due, abs=1)
    assert (shown.next_at - shown.last_at).total_seconds() == 60
    await bench.round()
    assert await bench.runs() == [run_id]


async def test_workers_that_all_take_themselves_for_the_reaper_start_one_run(bench: Bench) -> None:
    for overlap in ("skip", "queue", "allow"):
        await bench.make(overlap, overlap=overlap)
    await asyncio.gather(*(bench.round() for _ in range(5)))
    await bench.round()
    assert len(await bench.runs()) == 3


@pytest.mark.parametrize("overlap", ["skip", "queue", "allow"])
async def test_a_worker_that_dies_between_its_run_and_the_next_time_repeats_nothing(
    bench: Bench, overlap: str
) -> None:
    due = await bench.make(overlap=overlap)
    stored = await bench.ledger.schedules.get("s")
    new = await bench.scheduling.prepare(stored, due)
    await bench.ledger.schedules.note_run(stored, new.id, is_any=False)
    await bench.scheduling.submit(new)
    await bench.round()
    assert await bench.runs() == [new.id]
    await bench.end(new.id)
    await bench.round()
    assert await bench.runs() == [new.id]
    assert (await bench.get()).waiting == 0


async def test_a_run_that_a_dead_worker_enqueued_is_not_overlapped(bench: Bench) -> None:
    due = await bench.make(late=70)
    stored = await bench.ledger.schedules.get("s")
    new = await bench.scheduling.prepare(stored, due)
    await bench.ledger.schedules.note_run(stored, new.id, is_any=False)
    await bench.scheduling.submit(new)
    await bench.round()
    assert await bench.runs() == [new.id]


async def test_skip_leaves_out_what_is_due_while_the_last_run_lives(bench: Bench) -> None:
    await bench.make()
    await bench.round()
    (first,) = await bench.runs()
    for _ in range(2):
        await bench.overdue("s", 0)
        await bench.round()
    assert await bench.runs() == [first]
    await bench.end(first)
    await bench.overdue("s", 130)
    await bench.round()
    assert len(await bench.runs()) == 2, "one run stands for all that are due"


async def test_queue_starts_one_after_the_other_in_order(bench: Bench) -> None:
    await bench.make(overlap="queue", late=130)
    for number in range(3):
        await bench.round()
        await bench.round()
        runs = await bench.runs()
        shown = await bench.get()
        assert (len(runs), shown.waiting, shown.last_run) == (number + 1, 2 - number, runs[-1])
        await bench.end(runs[-1])
    await bench.round()
    assert len(await bench.runs()) == 3


async def test_a_queue_is_bounded_and_ends_with_a_pause(bench: Bench) -> None:
    await bench.make(overlap="queue", every=1, late=150)
    await bench.round()
    assert (await bench.get()).waiting == MOST_AT_ONCE - 1
    await bench.overdue("s", 5)
    await bench.round()
    assert (await bench.get()).waiting == MOST_AT_ONCE
    assert (await bench.fleet.pause_schedule("s")).waiting == 0
    await bench.round()
    assert len(await bench.runs()) == 1


async def test_allow_starts_all_side_by_side(bench: Bench) -> None:
    await bench.make(overlap="queue", late=130)
    await bench.round()
    await bench.fleet.schedule("s", "kit.add", {"x": 1}, every=60, overlap="allow")
    await bench.round()
    assert len(await bench.runs()) == 3
    assert (await bench.get()).waiting == 0
    await bench.overdue("s", 70)
    await bench.round()
    assert len(await bench.runs()) == 5


@pytest.mark.parametrize("catch_up", [0, 2])
async def test_an_outage_is_made_up_for_as_far_as_the_schedule_says(
    bench: Bench, catch_up: int
) -> None:
    await bench.make(every=3600, late=7 * 3600 + 900, overlap="allow", catch_up=catch_up)
    await bench.round()
    assert len(await bench.runs()) == catch_up
    shown = await bench.get()
    assert shown.next_at is not None
    assert 0 < shown.next_at.timestamp() * 1000 - await bench.ledger.directory.now_ms() < 3_600_000


async def test_after_a_clock_was_set_back_a_schedule_goes_on(bench: Bench) -> None:
    await bench.make()
    stored = await bench.ledger.schedules.get("s")
    now = await bench.ledger.directory.now_ms()
    await bench.ledger.schedules.change(stored, now + 365 * DAY_MS, {}, is_any=True)
    await bench.round()
    shown = await bench.get()
    assert shown.next_at is not None
    assert shown.next_at.timestamp() * 1000 <= now + 61_000
    assert await bench.runs() == []


async def test_a_time_that_comes_a_second_time_is_the_same_run(bench: Bench) -> None:
    await bench.make(overlap="allow")
    stored = await bench.ledger.schedules.get("s")
    await bench.round()
    await bench.ledger.schedules.change(stored, stored.next_ms, {}, is_any=True)
    await bench.round()
    await bench.fleet.schedule("s", "kit.add", {"x": 2}, every=60, overlap="allow")
    await bench.ledger.schedules.change(stored, stored.next_ms, {}, is_any=True)
    await bench.round()
    assert len(await bench.runs()) == 1
    assert (await bench.get()).problem is None


async def test_a_removed_schedule_of_the_same_name_does_not_stand_in_the_way(bench: Bench) -> None:
    due = await bench.make()
    await bench.round()
    await bench.fleet.unschedule("s")
    await bench.make()
    stored = await bench.ledger.schedules.get("s")
    await bench.ledger.schedules.change(stored, due, {}, is_any=True)
    await bench.round()
    assert len(await bench.runs()) == 2


async def test_one_whose_run_cannot_be_enqueued_says_why_and_goes_on(bench: Bench) -> None:
    await bench.make()
    key = f"{SHARD}schedule:s"
    await bench.ledger.connection.execute("HSET", key, "skill", "nothing")
    await bench.round()
    shown = await bench.get()
    assert shown.problem is not None
    assert "'nothing'" in shown.problem
    assert shown.next_at is not None
    assert shown.next_at.timestamp() * 1000 > await bench.ledger.directory.now_ms()
    await bench.ledger.connection.execute("HSET", key, "skill", "kit.add")
    await bench.overdue("s", 0)
    await bench.round()
    assert (await bench.get()).problem is None
    assert len(await bench.runs()) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("next", "soon"), ("times", '{"colour": 1}'), ("times", '{"every": 0}')]
)
async def test_an_invalid_one_keeps_no_other_back(bench: Bench, field: str, value: str) -> None:
    await bench.make("bad")
    await bench.ledger.connection.execute("HSET", f"{SHARD}schedule:bad", field, value)
    await bench.make("good")
    await bench.round()
    assert (await bench.get("good")).last_run in await bench.runs()
    _, due = await bench.ledger.schedules.due(0, 10)
    assert due == []
    assert {each.name for each in await bench.fleet.schedules()} >= {"good"}


async def test_a_paused_one_starts_nothing_and_goes_on_from_now(bench: Bench) -> None:
    await bench.make()
    paused = await bench.fleet.pause_schedule("s")
    assert (paused.paused, paused.next_at) == (True, None)
    await bench.round()
    resumed = await bench.fleet.resume_schedule("s")
    assert resumed.next_at is not None
    assert not resumed.paused
    assert resumed.next_at.timestamp() * 1000 > await bench.ledger.directory.now_ms()
    await bench.round()
    assert await bench.runs() == []
