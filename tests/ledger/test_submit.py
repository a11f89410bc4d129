"""Submitting runs."""

import asyncio

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import IdempotencyConflictError, LimitExceededError
from skillfleet_ledger import Ledger, Settings
from tests.ledger.helpers import (
    DONE,
    child_of,
    claimed,
    lapse,
    reap,
    running,
    settings_for,
    submission,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer


async def test_a_submitted_run_is_queued_and_its_message_published(ledger: Ledger) -> None:
    new = submission(priority=3, trace_id="t1")
    assert await ledger.submissions.submit(new, b"message")
    status = await ledger.queries.status(new.id)
    assert (status.state, status.name, status.attempt) == (RunState.QUEUED, "librarian.survey", 0)
    assert status.trace_id == "t1"
    queue = ledger.keys.broker_list("celery", 3)
    assert await ledger.connection.execute("LRANGE", queue, 0, -1) == [b"message"]


async def test_the_same_submission_again_changes_nothing_and_publishes_nothing(
    ledger: Ledger,
) -> None:
    new = submission()
    assert await ledger.submissions.submit(new, b"message")
    assert not await ledger.submissions.submit(new, b"message")
    assert await ledger.connection.execute("LLEN", "celery") == 1


async def test_many_submissions_of_one_id_at_once_make_one_run(ledger: Ledger) -> None:
    new = submission()
    created = await asyncio.gather(*(ledger.submissions.submit(new, b"message") for _ in range(50)))
    assert created.count(True) == 1
    assert await ledger.connection.execute("LLEN", "celery") == 1


async def test_an_id_that_exists_with_other_arguments_is_a_conflict(ledger: Ledger) -> None:
    new = await submitted(ledger)
    with pytest.raises(IdempotencyConflictError, match="use a new key"):
        await ledger.submissions.submit(submission(id=new.id, digest="other"))


async def test_an_idempotency_key_stands_for_one_run_of_one_skill(ledger: Ledger) -> None:
    keys = ledger.keys
    assert keys.key_id("a.b", "k") == keys.key_id("a.b", "k")
    assert keys.key_id("a.b", "k") != keys.key_id("a.c", "k")
    assert keys.key_id("a.b", "k") != keys.key_id("a.b", "l")


async def test_a_delayed_run_is_not_published_and_waits(ledger: Ledger) -> None:
    new = submission(delay_ms=60_000)
    await ledger.submissions.submit(new, b"message")
    assert await ledger.connection.execute("EXISTS", "celery") == 0
    status = await ledger.queries.status(new.id)
    assert status.due_at is not None
    assert (status.due_at - status.created_at).total_seconds() == 60


async def test_a_deadline_is_kept_in_the_record_and_the_invocation(ledger: Ledger) -> None:
    new = await submitted(ledger, deadline_ms=4_102_444_800_123)
    status = await ledger.queries.status(new.id)
    assert status.deadline is not None
    assert status.deadline.timestamp() == pytest.approx(4_102_444_800.123)
    invocation = await ledger.queries.invocation(new.id)
    assert invocation is not None
    assert invocation.deadline_ms == 4_102_444_800_123


async def test_a_child_of_a_running_run_belongs_to_its_tree(ledger: Ledger) -> None:
    parent = await running(ledger)
    child = child_of(parent, parent.run_id, parent_token=parent.token)
    assert await ledger.submissions.submit(child)
    assert await ledger.queries.children(parent.run_id) == [child.id]
    assert (await ledger.queries.status(parent.run_id)).children == 1
    status = await ledger.queries.status(child.id)
    assert (status.parent_id, status.root_id) == (parent.run_id, parent.run_id)


async def test_a_run_that_ended_makes_no_calls(ledger: Ledger) -> None:
    parent = await running(ledger)
    await ledger.leases.settle(parent, "librarian.survey", parent.seq, DONE)
    child = child_of(parent, parent.run_id)
    with pytest.raises(LimitExceededError, match="has ended or is being cancelled"):
        await ledger.submissions.submit(child)
    assert await ledger.queries.invocation(child.id) is None


async def test_a_run_that_is_being_cancelled_makes_no_calls(ledger: Ledger) -> None:
    parent = await running(ledger)
    await ledger.cancellation.cancel(parent.run_id, "enough")
    with pytest.raises(LimitExceededError):
        await ledger.submissions.submit(child_of(parent, parent.run_id))


async def test_a_stale_attempt_makes_no_calls(ledger: Ledger) -> None:
    stale = await running(ledger)
    await lapse(ledger, stale.run_id)
    await reap(ledger)
    fresh = await claimed(ledger, stale.run_id, "w2")
    with pytest.raises(LimitExceededError):
        await ledger.submissions.submit(child_of(stale, stale.run_id, parent_token=stale.token))
    assert await ledger.submissions.submit(child_of(fresh, fresh.run_id, parent_token=fresh.token))


async def test_a_tree_takes_no_more_runs_than_its_limit(valkey: ValkeyServer) -> None:
    ledger = Ledger(settings_for(valkey, max_tree_runs=2))
    try:
        parent = await running(ledger)
        await ledger.submissions.submit(child_of(parent, parent.run_id))
        with pytest.raises(LimitExceededError, match="already holds 2 runs"):
            await ledger.submissions.submit(child_of(parent, parent.run_id))
        assert len(await ledger.queries.children(parent.run_id)) == 1
    finally:
        await ledger.close()


async def test_a_root_that_expired_is_not_brought_back_by_a_late_call(ledger: Ledger) -> None:
    root = await running(ledger)
    child = child_of(root, root.run_id)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    await ledger.leases.settle(root, "librarian.survey", root.seq, DONE)
    for key in ("run", "events", "attempts", "children"):
        await touch(ledger, "DEL", root.run_id, f"{key}:{root.run_id}")
    await ledger.connection.execute("DEL", ledger.keys.result_key(root.run_id))
    for index in ("index:all", "index:agent:librarian"):
        await touch(ledger, "ZREM", root.run_id, index, root.run_id)
    await touch(ledger, "DEL", root.run_id, "expiring")
    with pytest.raises(LimitExceededError):
        await ledger.submissions.submit(child_of(lease, root.run_id))
    assert await ledger.queries.invocation(root.run_id) is None
    assert await touch(ledger, "EXISTS", root.run_id, f"run:{root.run_id}") == 0


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"parent_id": "p"}, "root_id is missing"),
        ({"priority": -1}, "priority must be"),
        ({"retention_ms": 0}, "retention_ms must be"),
        ({"delay_ms": -1}, "delay_ms 0 or more"),
    ],
)
def test_a_submission_that_no_script_could_handle_is_refused_at_once(
    values: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        submission(**values)


def test_a_called_run_lies_beside_its_root_whatever_its_id_is_made_of() -> None:
    keys = Settings.load(shards=16).keyspace
    for number in range(40):
        root = keys.new_id()
        assert keys.shard(keys.new_id(beside=root)) == keys.shard(root)
        by_key = keys.key_id("a.b", f"k{number}", beside=root)
        assert keys.shard(by_key) == keys.shard(root)
        assert by_key == keys.key_id("a.b", f"k{number}", beside=root)
