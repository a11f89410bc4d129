"""Measured numbers of the scripts: durations, counts and times."""

import uuid
from typing import Any, Self

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.records import ClaimStatus, Lease, RunLimits
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    event,
    expiring_entry,
    lapse,
    newest,
    reap,
    running,
    submission,
    submitted,
    touch,
)

TASK = "librarian.survey"


class Clock:
    """A context manager that notes Redis' time before and after its body."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.began = self.ended = 0

    async def __aenter__(self) -> Self:
        self.began = await self._ledger.directory.now_ms()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ended = await self._ledger.directory.now_ms()

    def has(self, moment: Any, after_ms: int = 0) -> bool:
        """Return whether `moment` is `after_ms` after the body."""
        return self.began + after_ms <= int(float(moment)) <= self.ended + after_ms


async def score(ledger: Ledger, index: str, run_id: str) -> Any:
    return await touch(ledger, "ZSCORE", run_id, index, run_id)


async def field(ledger: Ledger, run_id: str, name: str) -> Any:
    return await touch(ledger, "HGET", run_id, f"run:{run_id}", name)


async def claim(ledger: Ledger, run_id: str, declared: RunLimits) -> Lease:
    found = await ledger.leases.claim(run_id, "w1", uuid.uuid4().hex, LONG_MS, None, declared)
    assert found.lease is not None
    return found.lease


async def test_a_claim_gives_a_lease_of_the_length_asked_for(ledger: Ledger) -> None:
    new = await submitted(ledger)
    async with Clock(ledger) as clock:
        lease = await claimed(ledger, new.id, lease_ms=700_000)
    assert clock.has(await score(ledger, "leases", new.id), 700_000)
    assert clock.has(lease.redis_ms)
    assert clock.has(await field(ledger, new.id, "started"))


async def test_a_renewal_gives_a_lease_of_the_length_asked_for(ledger: Ledger) -> None:
    lease = await running(ledger)
    async with Clock(ledger) as clock:
        await ledger.leases.renew("w1", 700_000, {lease.run_id: lease.token}, timeout=5)
    assert clock.has(await score(ledger, "leases", lease.run_id), 700_000)
    assert clock.has(await touch(ledger, "ZSCORE", "x", "workers", "w1"), 700_000)


async def test_a_skills_own_timeout_counts_the_executing_time_of_its_attempts(
    ledger: Ledger,
) -> None:
    new = await submitted(ledger)
    declared = RunLimits(timeout_ms=1000)
    first = await claim(ledger, new.id, declared)
    assert (first.rest_ms, first.deadline_ms) == (1000, None)
    await ledger.leases.requeue(first, first.seq, outcome="retry", reason="x", spent_ms=300)
    second = await claim(ledger, new.id, declared)
    assert second.rest_ms == 700
    await ledger.leases.requeue(second, second.seq, outcome="released", reason="x", spent_ms=699)
    third = await claim(ledger, new.id, declared)
    assert third.rest_ms == 1
    await ledger.leases.requeue(third, third.seq, outcome="released", reason="x", spent_ms=1)
    over = await ledger.leases.claim(new.id, "w1", uuid.uuid4().hex, LONG_MS, None, declared)
    assert over.status is ClaimStatus.OVERDUE


async def test_of_a_lost_attempt_the_executing_time_counts_that_was_last_reported(
    ledger: Ledger,
) -> None:
    new = await submitted(ledger, max_deliveries=9)
    declared = RunLimits(timeout_ms=1000)

    async def lost(*reports: dict[str, int]) -> int | None:
        """The rest that the next attempt has."""
        lease = await claim(ledger, new.id, declared)
        for executed in reports:
            await ledger.leases.renew("w1", LONG_MS, {new.id: lease.token}, 5, executed)
        await lapse(ledger, new.id)
        await reap(ledger)
        following = await claim(ledger, new.id, declared)
        await ledger.leases.requeue(following, following.seq, outcome="released", reason="x")
        return following.rest_ms

    assert await lost({new.id: 100}, {new.id: 250}) == 750
    assert await lost() == 750
    assert await lost({}) == 750
    assert await lost({new.id: 0}) == 750
    assert await lost({new.id: 749}) == 1


async def test_time_that_an_attempt_has_counted_itself_counts_once(ledger: Ledger) -> None:
    new = await submitted(ledger)
    declared = RunLimits(timeout_ms=1000)
    first = await claim(ledger, new.id, declared)
    await ledger.leases.renew("w1", LONG_MS, {new.id: first.token}, 5, {new.id: 100})
    await ledger.leases.requeue(first, first.seq, outcome="retry", reason="x", spent_ms=120)
    await claim(ledger, new.id, declared)
    await lapse(ledger, new.id)
    await reap(ledger)
    assert (await claim(ledger, new.id, declared)).rest_ms == 880


async def test_a_run_that_returns_to_its_queue_is_ended_at_its_deadline(ledger: Ledger) -> None:
    deadline = await ledger.directory.now_ms() + 600_000
    new = await submitted(ledger, deadline_ms=deadline)
    lease = await claim(ledger, new.id, RunLimits(timeout_ms=500_000))
    assert (lease.deadline_ms, lease.rest_ms) == (deadline, 500_000)
    await touch(ledger, "ZREM", new.id, "deadlines", new.id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    assert int(await score(ledger, "deadlines", new.id)) == deadline


async def test_a_skill_that_declares_nothing_has_no_deadline(ledger: Ledger) -> None:
    new = await submitted(ledger)
    assert (await claim(ledger, new.id, RunLimits())).deadline_ms is None
    assert await field(ledger, new.id, "max_deliveries") == b"3"
    other = await submitted(ledger)
    await claim(ledger, other.id, RunLimits(max_deliveries=7))
    assert await field(ledger, other.id, "max_deliveries") == b"7"


async def test_a_deadline_is_over_at_its_very_moment(ledger: Ledger) -> None:
    now = await ledger.directory.now_ms()
    late = await submitted(ledger, deadline_ms=now)
    soon = await submitted(ledger, deadline_ms=now + 600_000)
    assert (await reap(ledger)).to_end == ((late.id, 0, "overdue"),)
    assert (await ledger.queries.state(soon.id))[0] is RunState.QUEUED


async def test_of_many_attempts_the_first_and_the_newest_are_listed(ledger: Ledger) -> None:
    new = await submitted(ledger, max_deliveries=9)
    for _ in range(103):
        lease = await claimed(ledger, new.id)
        await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    numbers = [attempt.number for attempt in (await ledger.queries.status(new.id)).attempts]
    assert numbers == [1, *range(6, 104)]


async def test_all_of_a_run_lives_exactly_as_long_as_its_retention(ledger: Ledger) -> None:
    first = await running(ledger, retention_ms=700_000)
    await ledger.leases.requeue(first, first.seq, outcome="retry", reason="x")
    lease = await claimed(ledger, first.run_id)
    child = child_of(lease, lease.run_id, retention_ms=700_000)
    await ledger.submissions.submit(child)
    await ledger.leases.end_unclaimed(child.id, TASK, DONE)
    await ledger.artifacts.fenced("write_chunk", lease, "u1", 0, b"x", 60_000)
    entry = orjson.dumps({"blob": "u1", "chunks": 1})
    await ledger.artifacts.fenced("commit_artifact", lease, "a", entry, 9)
    await ledger.streams.append(lease, lease.seq + 1, [event("x")])
    async with Clock(ledger) as clock:
        await ledger.leases.settle(lease, TASK, lease.seq + 1, DONE)
    run_id, prefix = lease.run_id, ledger.keys.prefix(lease.run_id)
    kinds = ("run", "events", "attempts", "children", "artifacts")
    names = [*(f"{prefix}{kind}:{run_id}" for kind in kinds), f"{prefix}blob:{run_id}:u1"]
    for name in (*names, ledger.keys.result_key(run_id)):
        assert clock.has(await ledger.connection.execute("PEXPIRETIME", name), 700_000), name
    score = await touch(ledger, "ZSCORE", run_id, "expiring", expiring_entry(lease))
    assert clock.has(score, 700_000)
    assert clock.has(await field(ledger, run_id, "finished"))


async def test_an_upload_has_its_own_time(ledger: Ledger) -> None:
    lease = await running(ledger)
    async with Clock(ledger) as clock:
        await ledger.artifacts.fenced("write_chunk", lease, "u1", 0, b"x", 700_000)
    key = f"{ledger.keys.prefix(lease.run_id)}blob:{lease.run_id}:u1"
    first = await ledger.connection.execute("PEXPIRETIME", key)
    assert clock.has(first, 700_000)
    await ledger.artifacts.fenced("write_chunk", lease, "u1", 1, b"y", 900_000)
    assert await ledger.connection.execute("PEXPIRETIME", key) == first
    assert await ledger.connection.execute("HGETALL", key) == [b"0", b"x", b"1", b"y"]


async def test_a_repeated_commit_keeps_its_own_bytes(ledger: Ledger) -> None:
    lease = await running(ledger)
    key = f"{ledger.keys.prefix(lease.run_id)}blob:{lease.run_id}:"
    for upload in ("u1", "u2"):
        await ledger.artifacts.fenced("write_chunk", lease, upload, 0, b"x", 60_000)
        entry = orjson.dumps({"blob": upload, "chunks": 1})
        for _ in range(2):
            await ledger.artifacts.fenced("commit_artifact", lease, "a", entry, 1)
            assert await ledger.connection.execute("EXISTS", f"{key}{upload}") == 1
            assert await ledger.connection.execute("PTTL", f"{key}{upload}") == -1
    assert await ledger.connection.execute("EXISTS", f"{key}u1") == 0


async def test_a_caller_counts_the_runs_it_called_that_go_on(ledger: Ledger) -> None:
    lease = await running(ledger)
    assert await field(ledger, lease.run_id, "open") is None
    children = [child_of(lease, lease.run_id, digest=f"d-{number}") for number in range(3)]
    for number, child in enumerate(children, 1):
        await ledger.submissions.submit(child)
        await ledger.submissions.submit(child)
        assert await field(ledger, lease.run_id, "open") == b"%d" % number
    running_child = await claimed(ledger, children[0].id)
    # A mark counts, and the end after it does not count again.
    await ledger.cancellation.cancel(children[0].id, "enough")
    assert await field(ledger, lease.run_id, "open") == b"2"
    await ledger.cancellation.cancel(children[0].id, "enough")
    await ledger.leases.settle(running_child, TASK, running_child.seq, DONE)
    assert await field(ledger, lease.run_id, "open") == b"2"
    await ledger.cancellation.cancel(children[1].id, "enough")
    await ledger.leases.end_unclaimed(children[2].id, TASK, DONE)
    assert await field(ledger, lease.run_id, "open") == b"0"


async def test_a_debt_is_left_to_its_debtor_for_two_seconds(ledger: Ledger) -> None:
    lease = await running(ledger)
    child = child_of(lease, lease.run_id)
    await ledger.submissions.submit(child)
    async with Clock(ledger) as clock:
        await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert clock.has(await score(ledger, "cleanups", lease.run_id), 2000)
    await touch(ledger, "ZADD", lease.run_id, "cleanups", 1, lease.run_id)
    async with Clock(ledger) as clock:
        assert (await reap(ledger)).to_clean_up == (lease.run_id,)
    assert clock.has(await score(ledger, "cleanups", lease.run_id), 5000)


async def test_a_delayed_run_counts_as_published_when_it_is_due(ledger: Ledger) -> None:
    async with Clock(ledger) as clock:
        new = await submitted(ledger, delay_ms=600_000)
    for name in ("due", "published"):
        assert clock.has(await field(ledger, new.id, name), 600_000)
    assert clock.has(await score(ledger, "delayed", new.id), 600_000)
    assert await touch(ledger, "HGET", new.id, "delays", "celery") == b"1"


async def test_a_retry_counts_as_published_when_it_is_due(ledger: Ledger) -> None:
    lease = await running(ledger)
    async with Clock(ledger) as clock:
        await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x", delay_ms=600_000)
    for name in ("due", "published"):
        assert clock.has(await field(ledger, lease.run_id, name), 600_000)
    assert clock.has(await score(ledger, "delayed", lease.run_id), 600_000)
    # When it is due, it is published and no longer delayed.
    await touch(ledger, "ZADD", lease.run_id, "delayed", 1, lease.run_id)
    async with Clock(ledger) as clock:
        found = await reap(ledger)
    assert (found.to_publish, found.counts["due"]) == ((lease.run_id,), 1)
    assert await field(ledger, lease.run_id, "due") is None
    assert await touch(ledger, "EXISTS", lease.run_id, "delays") == 0
    assert clock.has(await field(ledger, lease.run_id, "published"))
    assert clock.has(await score(ledger, "ready:celery:0", lease.run_id))


async def test_a_run_waits_since_its_publication(ledger: Ledger) -> None:
    new = await submitted(ledger)
    published = int(await field(ledger, new.id, "published")) - 90_000
    await touch(ledger, "HSET", new.id, f"run:{new.id}", "published", published)
    async with Clock(ledger) as clock:
        lease = await claimed(ledger, new.id)
    assert clock.began - published <= lease.waited_ms <= clock.ended - published
    mark = await touch(ledger, "HGET", new.id, "watermark", "celery:0")
    assert int(mark) == published


async def test_a_number_of_runs_is_counted_for_a_tree(ledger: Ledger) -> None:
    lease = await running(ledger)
    child = child_of(lease, lease.run_id)
    await ledger.submissions.submit(child)
    below = await claimed(ledger, child.id)
    await ledger.submissions.submit(child_of(below, lease.run_id))
    assert await field(ledger, lease.run_id, "tree") == b"2"


async def test_a_stream_is_cut_to_its_length(ledger: Ledger) -> None:
    lease = await running(ledger)
    first = lease.seq + 1
    for start in range(first, first + 1000, 200):
        await ledger.streams.append(lease, start, [event()] * 200)
    most = ledger.settings.max_events
    keys, script = (ledger.keys.prefix(lease.run_id),), "append"
    packed = [part for _ in range(200) for part in event()]
    args = (lease.run_id, lease.token, 1, first + 1000, 300, "", *packed)
    assert await run_script(ledger.connection, script, keys, args) == [1, first + 1199, b""]
    left = await touch(ledger, "XLEN", lease.run_id, f"events:{lease.run_id}")
    assert 300 <= left < 500 < most


async def test_the_reapers_leader_lock_lasts_as_long_as_asked_for(ledger: Ledger) -> None:
    async with Clock(ledger) as clock:
        await reap(ledger, lock_ttl_ms=700_000)
    name = f"{ledger.keys.prefix('x')}reaper"
    assert clock.has(await ledger.connection.execute("PEXPIRETIME", name), 700_000)
    assert clock.has(await ledger.connection.execute("GET", f"{ledger.keys.prefix('x')}reaped"))


async def test_an_outage_gives_two_seconds_of_grace(ledger: Ledger) -> None:
    await reap(ledger, lock_ttl_ms=5000)
    now = await ledger.directory.now_ms()
    await touch(ledger, "SET", "x", "reaped", now - 9000)
    await reap(ledger, lock_ttl_ms=5000)
    assert await touch(ledger, "EXISTS", "x", "lease_grace") == 0
    await touch(ledger, "SET", "x", "reaped", now - 11_000)
    async with Clock(ledger) as clock:
        await reap(ledger, lock_ttl_ms=5000)
    name = f"{ledger.keys.prefix('x')}lease_grace"
    assert clock.has(await ledger.connection.execute("PEXPIRETIME", name), 2000)


async def test_what_was_not_published_comes_again_after_two_seconds(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    async with Clock(ledger) as clock:
        await reap(ledger)
    assert clock.has(await score(ledger, "unpublished", lease.run_id), 2000)
    assert clock.has(await field(ledger, lease.run_id, "published"))
    # It is named again, as if it had never been published.
    await touch(ledger, "HSET", lease.run_id, f"run:{lease.run_id}", "published", 1)
    for index in ("unpublished", "ready:celery:0"):
        await touch(ledger, "ZADD", lease.run_id, index, "XX", 1, lease.run_id)
    async with Clock(ledger) as clock:
        assert (await reap(ledger, grace_ms=LONG_MS**2)).to_publish == (lease.run_id,)
    assert clock.has(await field(ledger, lease.run_id, "published"))
    assert clock.has(await score(ledger, "ready:celery:0", lease.run_id))


async def test_what_was_not_closed_comes_again_after_five_seconds(ledger: Ledger) -> None:
    dead = await running(ledger, max_deliveries=1)
    await lapse(ledger, dead.run_id)
    overdue = await submitted(ledger, deadline_ms=1)
    async with Clock(ledger) as clock:
        await reap(ledger)
    assert clock.has(await score(ledger, "leases", dead.run_id), 5000)
    assert clock.has(await score(ledger, "deadlines", overdue.id), 5000)


async def test_a_running_run_past_its_deadline_is_looked_at_every_minute(ledger: Ledger) -> None:
    lease = await running(ledger, deadline_ms=4 * 10**12)
    await touch(ledger, "ZADD", lease.run_id, "deadlines", 1, lease.run_id)
    async with Clock(ledger) as clock:
        await reap(ledger)
    assert clock.has(await score(ledger, "deadlines", lease.run_id), 60_000)


async def test_a_run_that_came_back_and_ended_alike_keeps_its_place(ledger: Ledger) -> None:
    """The entry of its first life, by which it would be removed, looks like its own."""
    lease = await running(ledger)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    entry = expiring_entry(lease)
    await touch(ledger, "ZADD", lease.run_id, "expiring", "XX", 1, entry)
    assert (await reap(ledger)).counts["pruned"] == 1
    found = await newest(ledger, state=RunState.SUCCEEDED)
    assert [run.id for run in found] == [lease.run_id]
    await touch(ledger, "ZADD", lease.run_id, "expiring", 10**13, entry)


async def test_a_message_is_pushed_once_and_onto_its_own_list(ledger: Ledger) -> None:
    now, later = submission(priority=3), submission(priority=3, delay_ms=LONG_MS)
    for new in (now, now, later):
        await ledger.submissions.submit(new, b"message")
    key = ledger.keys.broker_list("celery", 3)
    assert await ledger.connection.execute("LRANGE", key, 0, -1) == [b"message"]
    await ledger.connection.execute("DEL", key)


async def test_delays_are_counted_down_to_none(ledger: Ledger) -> None:
    runs = [await submitted(ledger, delay_ms=LONG_MS) for _ in range(3)]
    counts = []
    for new in runs:
        counts.append(await touch(ledger, "HGET", "x", "delays", "celery"))
        await ledger.leases.end_unclaimed(new.id, TASK, DONE)
    assert counts == [b"3", b"2", b"1"]
    assert await touch(ledger, "EXISTS", "x", "delays") == 0


async def test_a_delay_of_no_known_run_is_forgotten(ledger: Ledger) -> None:
    lease = await running(ledger)
    for run_id in (lease.run_id, "unknown"):
        await touch(ledger, "ZADD", run_id, "delayed", 1, run_id)
    found = await reap(ledger)
    assert (found.to_publish, found.counts["due"]) == ((), 0)
    assert await touch(ledger, "EXISTS", "x", "delayed") == 0


async def test_a_live_run_keeps_the_list_of_those_it_called(ledger: Ledger) -> None:
    lease = await running(ledger)
    child = child_of(lease, lease.run_id)
    await ledger.submissions.submit(child)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    assert await ledger.queries.children(lease.run_id) == [child.id]
    assert await touch(ledger, "PTTL", lease.run_id, f"children:{lease.run_id}") == -1


async def test_an_ended_run_has_no_deadline_and_no_debt_any_more(ledger: Ledger) -> None:
    lease = await running(ledger, deadline_ms=4 * 10**12)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="x")
    assert await score(ledger, "cleanups", lease.run_id)
    await ledger.leases.end_unclaimed(lease.run_id, TASK, DONE)
    for index in ("deadlines", "cleanups"):
        assert await score(ledger, index, lease.run_id) is None


async def test_a_lease_of_no_known_run_is_forgotten(ledger: Ledger) -> None:
    queued = await submitted(ledger)
    for run_id in (queued.id, "unknown"):
        await touch(ledger, "ZADD", run_id, "leases", 1, run_id)
    found = await reap(ledger)
    assert (found.to_publish, found.to_end) == ((), ())
    assert await touch(ledger, "EXISTS", "x", "leases") == 0
    assert await field(ledger, queued.id, "token") == b"0"


async def test_a_deadline_of_no_known_run_is_forgotten(ledger: Ledger) -> None:
    await touch(ledger, "ZADD", "unknown", "deadlines", 1, "unknown")
    assert (await reap(ledger)).to_end == ()
    assert await touch(ledger, "EXISTS", "x", "deadlines") == 0


async def test_a_lost_run_that_still_has_time_starts_again(ledger: Ledger) -> None:
    lease = await running(ledger, deadline_ms=4 * 10**12)
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)


async def test_a_dead_process_is_waited_for_no_longer(ledger: Ledger) -> None:
    lease = await running(ledger)
    async with Clock(ledger) as clock:
        await ledger.leases.expire_lease(lease.run_id, "w1")
    assert clock.has(await score(ledger, "leases", lease.run_id))
    assert (await reap(ledger)).to_publish == (lease.run_id,)


async def test_the_shortest_delay_is_one(ledger: Ledger) -> None:
    lease = await running(ledger)
    async with Clock(ledger) as clock:
        await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x", delay_ms=1)
        new = await submitted(ledger, delay_ms=1)
    for run_id in (lease.run_id, new.id):
        assert clock.has(await score(ledger, "delayed", run_id), 1)
