"""The reaper's rounds."""

import asyncio
import uuid

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.maintenance import ReapOptions
from skillfleet_ledger.runs.records import ClaimStatus, EndResult
from skillfleet_ledger.settings import Settings
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    expiring_entry,
    lapse,
    newest,
    read_all,
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
DEAD = RunEnd(RunState.DEAD, "worker_lost", "its worker was lost too often")
GRACE_MS = 10_000


async def age(ledger: Ledger, run_id: str, by_ms: int, queue: str = "celery") -> None:
    """Move the run's time of publication `by_ms` milliseconds back."""
    await touch(ledger, "ZINCRBY", run_id, f"ready:{queue}:0", -by_ms, run_id)


async def test_a_live_lease_is_left_alone(ledger: Ledger) -> None:
    await running(ledger)
    found = await reap(ledger)
    assert (found.to_publish, found.to_end, found.more) == ((), (), False)
    assert set(found.counts.values()) == {0}


async def test_a_lapsed_lease_returns_the_run_to_its_queue(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["restarted"]) == ((lease.run_id,), 1)
    status = await ledger.queries.status(lease.run_id)
    assert (status.state, status.retries, status.attempts[0].outcome) == ("queued", 0, "lost")
    again = await claimed(ledger, lease.run_id, "w2")
    assert (again.attempt, again.token) == (2, lease.token + 2)
    await ledger.leases.settle(again, TASK, again.seq, DONE)
    states = [one.state for one in await read_all(ledger, lease.run_id)]
    assert states == ["running", "queued", "running", "succeeded"]


async def test_a_round_names_the_runs_that_it_restarted_apart(ledger: Ledger) -> None:
    waiting, lease = await submitted(ledger), await running(ledger)
    await touch(ledger, "ZADD", waiting.id, "unpublished", 0, waiting.id)
    await lapse(ledger, lease.run_id)
    found = await reap(ledger)
    assert found.to_publish == (waiting.id, lease.run_id)
    assert found.restarted == (lease.run_id,)


async def test_a_lost_run_is_read_at_once(ledger: Ledger) -> None:
    lease = await running(ledger)
    lost = await ledger.queries.lost_run(lease.run_id)
    assert lost is not None
    assert lost.status == await ledger.queries.status(lease.run_id)
    assert lost.invocation == await ledger.queries.invocation(lease.run_id)
    assert await ledger.queries.lost_run("unknown") is None


async def test_a_lease_lapses_by_redis_time_alone(ledger: Ledger) -> None:
    new = await submitted(ledger)
    await claimed(ledger, new.id, lease_ms=1)
    await wait_until_async(lambda: restarted(ledger), what="the lease to lapse")
    assert (await ledger.queries.status(new.id)).state is RunState.QUEUED


async def restarted(ledger: Ledger) -> int:
    return (await reap(ledger)).counts["restarted"]


async def test_a_poison_run_is_given_up_after_its_deliveries(ledger: Ledger) -> None:
    new = await submitted(ledger, max_deliveries=2)
    await claimed(ledger, new.id)
    await lapse(ledger, new.id)
    assert (await reap(ledger)).to_publish == (new.id,)
    lease = await claimed(ledger, new.id)
    await lapse(ledger, new.id)
    found = await reap(ledger)
    assert (found.to_publish, found.to_end) == ((), ((new.id, lease.token + 1, "dead"),))
    assert (
        await ledger.leases.end_unclaimed(new.id, TASK, DEAD, found.to_end[0][1])
        == EndResult.ENDED_NOW
    )
    status = await ledger.queries.status(new.id)
    assert (status.state, len(status.attempts)) == (RunState.DEAD, 2)


async def test_a_candidate_that_stays_open_comes_again_and_counts_one_crash(
    ledger: Ledger,
) -> None:
    new = await submitted(ledger, max_deliveries=1)
    await claimed(ledger, new.id)
    await lapse(ledger, new.id)
    first = await reap(ledger)
    assert (await reap(ledger)).to_end == ()
    for _ in range(3):
        await lapse(ledger, new.id)
        assert (await reap(ledger)).to_end == first.to_end
    lost = await touch(ledger, "HGET", new.id, f"run:{new.id}", "lost")
    assert lost == b"1"


async def test_candidates_that_stay_open_do_not_block_others(ledger: Ledger) -> None:
    for _ in range(3):
        new = await submitted(ledger, max_deliveries=1)
        await claimed(ledger, new.id)
        await lapse(ledger, new.id)
    overdue = [await submitted(ledger, deadline_ms=1) for _ in range(3)]
    healthy = await running(ledger)
    await touch(ledger, "ZADD", healthy.run_id, "leases", 2, healthy.run_id)
    late = await submitted(ledger, deadline_ms=2)
    seen: set[str] = set()
    published: set[str] = set()
    for _ in range(4):
        found = await reap(ledger, limit=1)
        seen |= {run_id for run_id, _, _ in found.to_end}
        published |= set(found.to_publish)
    assert published == {healthy.run_id}
    assert seen >= {overdue[0].id, overdue[1].id, overdue[2].id, late.id}


async def test_a_released_attempt_does_not_count_as_a_crash(ledger: Ledger) -> None:
    new = await submitted(ledger, max_deliveries=1)
    for _ in range(5):
        lease = await claimed(ledger, new.id)
        await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="drain")
    assert (await reap(ledger)).to_end == ()


async def test_after_an_outage_leases_may_be_renewed_before_they_are_taken(
    ledger: Ledger,
) -> None:
    await reap(ledger)
    alive, dead = [await running(ledger) for _ in range(2)]
    await touch(ledger, "SET", "x", "reaped", 1)
    for lease in (alive, dead):
        await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == ()
    await ledger.leases.renew("w1", LONG_MS, {alive.run_id: alive.token}, timeout=5)
    await wait_until_async(lambda: restarted(ledger), what="the dead one's run to restart")
    assert (await ledger.queries.status(dead.run_id)).state is RunState.QUEUED
    assert (await ledger.queries.status(alive.run_id)).state is RunState.RUNNING


async def test_a_lapsed_run_past_its_deadline_is_overdue(ledger: Ledger) -> None:
    lease = await running(ledger)
    await touch(ledger, "HSET", lease.run_id, f"run:{lease.run_id}", "deadline", 1)
    await touch(ledger, "ZADD", lease.run_id, "deadlines", LONG_MS * 10**6, lease.run_id)
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_end == ((lease.run_id, lease.token + 1, "overdue"),)


async def test_a_delay_that_is_over_publishes_the_run(ledger: Ledger) -> None:
    new = await submitted(ledger, delay_ms=1)
    found = await wait_until_async(lambda: due(ledger), what="the delay to be over")
    assert found == (new.id,)
    lease = await claimed(ledger, new.id)
    assert lease.attempt == 1


async def due(ledger: Ledger) -> tuple[str, ...]:
    return (await reap(ledger)).to_publish


async def test_a_run_overdue_in_the_queue_is_closed_also_when_it_is_delayed(
    ledger: Ledger,
) -> None:
    waiting = await submitted(ledger, deadline_ms=1)
    delayed = await submitted(ledger, deadline_ms=1, delay_ms=LONG_MS)
    found = await reap(ledger)
    assert set(found.to_end) == {(waiting.id, 0, "overdue"), (delayed.id, 0, "overdue")}


async def test_a_running_attempt_ends_itself_at_its_deadline(ledger: Ledger) -> None:
    lease = await running(ledger)
    await touch(ledger, "HSET", lease.run_id, f"run:{lease.run_id}", "deadline", 1)
    await touch(ledger, "ZADD", lease.run_id, "deadlines", 1, lease.run_id)
    assert (await reap(ledger)).to_end == ()


async def test_a_run_whose_queue_is_empty_is_published_again(ledger: Ledger) -> None:
    new = await submitted(ledger)
    await age(ledger, new.id, GRACE_MS)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["stranded"]) == ((new.id,), 1)
    assert (await reap(ledger)).to_publish == ()


async def test_a_run_whose_message_waits_in_its_queue_is_left_alone(ledger: Ledger) -> None:
    new = submission()
    await ledger.submissions.submit(new, b"message")
    await age(ledger, new.id, 10 * GRACE_MS)
    assert (await reap(ledger)).to_publish == ()


async def test_each_priority_has_its_own_messages(ledger: Ledger) -> None:
    held = submission(priority=3)
    await ledger.submissions.submit(held, b"message")
    await touch(ledger, "ZINCRBY", held.id, "ready:celery:3", -2 * GRACE_MS, held.id)
    assert (await reap(ledger)).to_publish == ()
    lost = await submitted(ledger)
    await age(ledger, lost.id, GRACE_MS)
    assert (await reap(ledger)).to_publish == (lost.id,)
    await ledger.connection.execute("DEL", ledger.keys.broker_list("celery", 3))
    assert (await reap(ledger)).to_publish == (held.id,)


async def test_a_run_that_later_ones_overtook_is_published_again(ledger: Ledger) -> None:
    lost, later = submission(), submission()
    await ledger.submissions.submit(lost, b"message")
    await ledger.submissions.submit(later, b"message")
    await age(ledger, lost.id, 2 * GRACE_MS)
    assert (await reap(ledger)).to_publish == ()
    await claimed(ledger, later.id)
    assert (await reap(ledger)).to_publish == (lost.id,)


async def test_of_many_stranded_runs_a_round_publishes_so_many_of_each_queue(
    ledger: Ledger,
) -> None:
    runs = [await submitted(ledger, queue=queue) for queue in ("q1", "q2") for _ in range(3)]
    for new in runs:
        await age(ledger, new.id, GRACE_MS, new.queue)
    first, second = await reap(ledger, limit=2), await reap(ledger, limit=2)
    assert (len(first.to_publish), first.counts["stranded"], first.more) == (4, 4, True)
    assert (len(second.to_publish), second.counts["stranded"], second.more) == (2, 2, False)
    assert {*first.to_publish, *second.to_publish} == {new.id for new in runs}


async def test_a_run_is_overtaken_by_one_that_was_published_well_after_it(
    ledger: Ledger,
) -> None:
    lost, later = submission(), submission()
    await ledger.submissions.submit(lost, b"message")
    await ledger.submissions.submit(later, b"message")
    published = await ledger.directory.now_ms() - 5 * GRACE_MS
    await touch(ledger, "HSET", later.id, f"run:{later.id}", "published", published)
    await claimed(ledger, later.id)
    key = "ready:celery:0"
    await touch(ledger, "ZADD", lost.id, key, published - GRACE_MS + 1, lost.id)
    assert (await reap(ledger)).to_publish == ()
    await touch(ledger, "ZADD", lost.id, key, published - GRACE_MS - 1, lost.id)
    assert (await reap(ledger)).to_publish == (lost.id,)


async def test_patience_doubles_with_every_repeated_publication(ledger: Ledger) -> None:
    new = await submitted(ledger)
    for patience in (1, 2, 4, 8):
        # The missing time is more than a busy machine takes for two calls.
        await age(ledger, new.id, patience * GRACE_MS - 9000)
        assert (await reap(ledger)).to_publish == ()
        await age(ledger, new.id, 9000)
        assert (await reap(ledger)).to_publish == (new.id,)
    await claimed(ledger, new.id)
    stranded = await touch(ledger, "HGET", new.id, f"run:{new.id}", "stranded")
    assert stranded is None


async def test_patience_ends_with_the_eighth_doubling(ledger: Ledger) -> None:
    new = await submitted(ledger)
    await touch(ledger, "HSET", new.id, f"run:{new.id}", "stranded", 20)
    await age(ledger, new.id, 256 * GRACE_MS - 9000)
    assert (await reap(ledger)).to_publish == ()
    await age(ledger, new.id, 9000)
    assert (await reap(ledger)).to_publish == (new.id,)


async def test_a_waiting_run_of_no_known_run_is_forgotten(ledger: Ledger) -> None:
    lease, new = await running(ledger), await submitted(ledger)
    for run_id in (lease.run_id, "unknown"):
        await touch(ledger, "ZADD", run_id, "ready:celery:0", 1, run_id)
    assert (await reap(ledger)).to_publish == ()
    assert await touch(ledger, "ZRANGE", "x", "ready:celery:0", 0, -1) == [new.id.encode()]


async def test_runs_with_long_patience_do_not_hide_those_after_them(ledger: Ledger) -> None:
    for _ in range(9):
        patient = await submitted(ledger)
        await touch(ledger, "HSET", patient.id, f"run:{patient.id}", "stranded", 8)
        await age(ledger, patient.id, 2 * GRACE_MS)
    hidden = await submitted(ledger)
    await age(ledger, hidden.id, GRACE_MS)
    assert (await reap(ledger, limit=1)).to_publish == (hidden.id,)


async def test_with_a_separate_broker_the_caller_names_the_empty_queues(
    valkey: ValkeyServer,
) -> None:
    ledger = Ledger(settings_for(valkey, broker_url="amqp://guest@127.0.0.1//"))
    try:
        new = await submitted(ledger, queue="q1")
        await age(ledger, new.id, GRACE_MS, "q1")
        assert (await reap(ledger)).to_publish == ()
        assert (await reap(ledger, empty_queues=("q2",))).to_publish == ()
        assert (await reap(ledger, empty_queues=("q1",))).to_publish == (new.id,)
    finally:
        await ledger.close()


async def test_one_worker_is_reaper_until_its_leader_lock_ends(ledger: Ledger) -> None:
    await reap(ledger, "w1", lock_ttl_ms=LONG_MS)
    assert await ledger.maintenance.reap(0, "w2", ReapOptions()) is None
    await reap(ledger, "w1", lock_ttl_ms=1)

    async def taken() -> bool:
        return await ledger.maintenance.reap(0, "w2", ReapOptions()) is not None

    await wait_until_async(taken, what="w2 to take over")
    assert await ledger.maintenance.reap(0, "w1", ReapOptions()) is None


async def test_of_many_workers_one_restarts_what_was_lost(ledger: Ledger) -> None:
    leases = [await running(ledger) for _ in range(50)]
    for lease in leases:
        await lapse(ledger, lease.run_id)
    rounds = await asyncio.gather(
        *(ledger.maintenance.reap(0, f"w{i % 5}", ReapOptions()) for i in range(25))
    )
    published = [run_id for found in rounds if found for run_id in found.to_publish]
    assert sorted(published) == sorted(lease.run_id for lease in leases)


async def test_a_round_that_reached_its_limit_asks_for_another(ledger: Ledger) -> None:
    leases = [await running(ledger) for _ in range(5)]
    for lease in leases:
        await lapse(ledger, lease.run_id)
    published: list[str] = []
    more = True
    while more:
        found = await reap(ledger, limit=2)
        assert len(found.to_publish) <= 2
        published += found.to_publish
        more = found.more
    assert sorted(published) == sorted(lease.run_id for lease in leases)


async def test_an_expired_run_leaves_the_indexes(ledger: Ledger) -> None:
    lease = await running(ledger, retention_ms=1)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)

    async def pruned() -> bool:
        return (await reap(ledger)).counts["pruned"] == 1

    await wait_until_async(pruned, what="the run to be forgotten")
    assert await newest(ledger) == []


async def test_of_many_expired_runs_a_round_forgets_ten_times_its_limit(ledger: Ledger) -> None:
    for number in range(11):
        entry = f"succeeded|librarian|6|gone-{number}"
        await touch(ledger, "ZADD", "x", "expiring", 1, entry)
    rounds = [await reap(ledger, limit=1) for _ in range(2)]
    assert [found.counts["pruned"] for found in rounds] == [10, 1]
    assert [found.more for found in rounds] == [True, False]


async def test_a_run_that_its_key_brought_back_keeps_its_place(ledger: Ledger) -> None:
    first = await running(ledger, retention_ms=1)
    await ledger.leases.settle(first, TASK, first.seq, DONE)

    async def expired() -> bool:
        return await ledger.queries.invocation(first.run_id) is None

    await wait_until_async(expired, what="the first run to expire")
    new = await submitted(ledger, id=first.run_id)
    entry = expiring_entry(first)
    await touch(ledger, "ZADD", first.run_id, "expiring", "XX", 1, entry)
    assert (await reap(ledger)).counts["pruned"] == 1
    assert [run.id for run in await newest(ledger, agent="librarian")] == [new.id]
    assert await newest(ledger, state=RunState.SUCCEEDED) == []


async def test_an_empty_queue_is_forgotten(ledger: Ledger) -> None:
    await running(ledger, queue="tenant-42")
    await reap(ledger)
    for key in ("queues", "watermark"):
        assert await ledger.connection.execute("EXISTS", f"{ledger.keys.prefix('x')}{key}") == 0


async def test_workers_that_are_gone_are_forgotten(ledger: Ledger) -> None:
    await ledger.leases.renew("w1", 1, {}, timeout=5)

    async def gone() -> bool:
        await reap(ledger)
        return bool(await touch(ledger, "ZCARD", "x", "workers") == 0)

    await wait_until_async(gone, what="w1 to be forgotten")


@pytest.mark.parametrize("name", ["no-priority", "celery:", "", "celery:x"])
async def test_the_reaper_survives_a_queue_name_that_is_none(ledger: Ledger, name: str) -> None:
    await touch(ledger, "SADD", "x", "queues", name)
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)


async def test_every_shard_has_its_own_reaper(valkey: ValkeyServer) -> None:
    settings: Settings = settings_for(valkey, shards=4)
    ledger = Ledger(settings)
    try:
        leases = [await running(ledger) for _ in range(20)]
        published: set[str] = set()
        for lease in leases:
            await lapse(ledger, lease.run_id)
        for shard in range(4):
            published |= set((await reap(ledger, f"w{shard}", shard)).to_publish)
        assert published == {lease.run_id for lease in leases}
    finally:
        await ledger.close()


async def test_a_late_message_of_a_restarted_run_is_dropped(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    await claimed(ledger, lease.run_id, "w2")
    claim = await ledger.leases.claim(lease.run_id, "w3", uuid.uuid4().hex, LONG_MS, None)
    assert claim.status is ClaimStatus.DUPLICATE


async def test_what_a_reaper_did_not_live_to_publish_comes_again(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)
    assert (await reap(ledger)).to_publish == ()
    await pass_by(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)
    await ledger.maintenance.published(0, [lease.run_id])
    await pass_by(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == ()


async def test_what_was_claimed_or_waits_again_is_not_published_twice(ledger: Ledger) -> None:
    taken, delayed = await running(ledger), await running(ledger)
    for lease in (taken, delayed):
        await lapse(ledger, lease.run_id)
    assert set((await reap(ledger)).to_publish) == {taken.run_id, delayed.run_id}
    await claimed(ledger, taken.run_id, "w2")
    again = await claimed(ledger, delayed.run_id, "w2")
    await ledger.leases.requeue(again, again.seq, outcome="retry", reason="x", delay_ms=LONG_MS)
    for lease in (taken, delayed):
        await pass_by(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == ()
    assert await touch(ledger, "ZCARD", taken.run_id, "unpublished") == 0


async def pass_by(ledger: Ledger, run_id: str) -> None:
    """End the time in which the reaper's caller should have published."""
    await touch(ledger, "ZADD", run_id, "unpublished", "XX", 1, run_id)
