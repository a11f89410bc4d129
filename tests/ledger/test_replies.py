"""The exact replies of the scripts, also for users with fewer rights."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skillfleet.contracts import RunState
from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.records import ClaimStatus, EndResult
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    event,
    lapse,
    reap,
    running,
    settings_for,
    submission,
    submitted,
    touch,
)
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
ENOUGH = RunEnd(RunState.CANCELLED, "cancelled_by_caller", "enough")


async def call(
    ledger: Ledger, script: str, run_id: str, *args: Any, keys: tuple[str, ...] = ()
) -> Any:
    """Return a script's raw reply."""
    names = (ledger.keys.prefix(run_id), *keys)
    return await run_script(ledger.connection, script, names, (run_id, *args))


async def claim_raw(ledger: Ledger, run_id: str, claim: str = "c", timeout: int = 0) -> list[Any]:
    answer: list[Any] = await call(
        ledger, "claim", run_id, "w1", claim, LONG_MS, b'{"state":"running"}', timeout, 0, ""
    )
    return answer


async def test_a_claim_answers_to_the_last_number(ledger: Ledger) -> None:
    missing = await claim_raw(ledger, "unknown")
    assert [missing[i] for i in (0, 1, 2, 3, 5, 6)] == [b"unknown", 0, 0, 0, b"", b""]
    new = await submitted(ledger, deadline_ms=4 * 10**12)
    first = await claim_raw(ledger, new.id, "c1")
    assert [first[i] for i in (0, 1, 2, 3, 5, 7)] == [b"claimed", 1, 1, 1, b"4000000000000", 0]
    again = await claim_raw(ledger, new.id, "c1")
    assert [again[i] for i in (0, 1, 2, 3, 5, 6, 7)] == [*first[:4], first[5], 0, 0]
    other = await claim_raw(ledger, new.id, "c2")
    assert [other[i] for i in (0, 1, 2, 3, 6)] == [b"duplicate", 1, 1, 1, b""]
    lease = await claimed_again(ledger, new.id)
    third = await claim_raw(ledger, new.id, "c3")
    assert [third[i] for i in (0, 1, 2, 3, 7)] == [b"claimed", lease.token + 2, 3, 5, 2]


async def claimed_again(ledger: Ledger, run_id: str) -> Any:
    """Give two attempts back for a retry and return the second's lease."""
    first = await ledger.leases.claim(run_id, "w1", "c1", LONG_MS, None)
    assert first.lease is not None
    await ledger.leases.requeue(first.lease, first.lease.seq, outcome="retry", reason="x")
    lease = await claimed(ledger, run_id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    return lease


async def test_an_adopted_run_that_does_not_start_waits_like_any_other(ledger: Ledger) -> None:
    new = submission(deadline_ms=1)
    claim = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, new)
    assert (claim.status, claim.token) == (ClaimStatus.OVERDUE, 0)
    assert await touch(ledger, "ZSCORE", new.id, "ready:celery:0", new.id)
    assert await touch(ledger, "SMEMBERS", new.id, "queues") == [b"celery:0"]
    assert (await reap(ledger)).to_end == ((new.id, 0, "overdue"),)


@pytest.fixture
async def signed(valkey: ValkeyServer) -> AsyncIterator[Ledger]:
    """Yield a ledger of a fleet that trusts results but not records."""
    ledger = Ledger(settings_for(valkey, auth="required"))
    yield ledger
    await ledger.close()


async def test_a_run_that_has_a_result_is_over_where_records_are_not_believed(
    signed: Ledger,
) -> None:
    new = await submitted(signed)
    lease = await claimed(signed, new.id)
    await signed.leases.settle(lease, TASK, lease.seq, DONE)
    await touch(signed, "HSET", new.id, f"run:{new.id}", "state", "queued")
    claim = await signed.leases.claim(new.id, "w1", uuid.uuid4().hex, LONG_MS, None)
    assert (claim.status, claim.detail) == (ClaimStatus.ENDED, "over")


async def test_the_reason_of_a_cancellation_is_not_replaced_by_its_callers_end(
    ledger: Ledger,
) -> None:
    parent = await running(ledger)
    child = child_of(parent, parent.run_id)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    await ledger.cancellation.cancel(child.id, "enough", "budget_exhausted")
    await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="x")
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    claim = await ledger.leases.claim(child.id, "w1", "c", LONG_MS, None)
    assert (claim.detail, claim.code) == ("enough", "budget_exhausted")
    assert await ledger.queries.cancel_request(child.id) == ("enough", "budget_exhausted")


@pytest.fixture(params=["cancel", "request_cancel"])
async def either(ledger: Ledger, request: pytest.FixtureRequest) -> Ledger:
    """A ledger whose user may end runs, and one whose user may only ask for it."""
    ledger.cancellation._may_end_runs = request.param == "cancel"
    return ledger


async def called(ledger: Ledger, parent: Any, **values: Any) -> Any:
    child = child_of(parent, parent.run_id, **values)
    await ledger.submissions.submit(child)
    return await claimed(ledger, child.id)


async def open_calls(ledger: Ledger, run_id: str) -> Any:
    return await touch(ledger, "HGET", run_id, f"run:{run_id}", "open")


async def owed_at(ledger: Ledger, run_id: str) -> int | None:
    score = await touch(ledger, "ZSCORE", run_id, "cleanups", run_id)
    return None if score is None else int(float(score))


async def test_no_run_is_cancelled_by_an_unknown_id(either: Ledger) -> None:
    with pytest.raises(UnknownRunError):
        await either.cancellation.cancel("unknown", "enough")
    assert await either.connection.execute("KEYS", "*unknown*") == []


async def test_a_mark_keeps_the_first_reason_and_counts_once(either: Ledger) -> None:
    root = await running(either)
    parent = await called(either, root)
    await called(either, parent, root_id=root.run_id)
    for reason in ("first", "second"):
        end = RunEnd(RunState.CANCELLED, reason, reason)
        before = await either.directory.now_ms()
        what, children = await either.cancellation._cancel_one(parent.run_id, end, only_mark="1")
        assert (what, len(children)) == ("marked", 1)
        after = await either.directory.now_ms()
        assert before + 2000 <= (await owed_at(either, parent.run_id) or 0) <= after + 2000
    assert await either.queries.cancel_request(parent.run_id) == ("first", "first")
    assert await open_calls(either, root.run_id) == b"0"


async def test_an_order_keeps_the_first_reason_and_counts_once(either: Ledger) -> None:
    root = await running(either)
    child = await called(either, root)
    other = await called(either, root, digest="another")
    received: asyncio.Queue[bytes | None] = asyncio.Queue()
    channel = f"{either.keys.prefix(root.run_id)}worker:w1"
    await either.pubsub.listen(channel, received.put_nowait)
    for reason in ("first", "second"):
        end = RunEnd(RunState.CANCELLED, reason, reason)
        # One without children is cancelled at once, and owes nothing.
        assert (await either.cancellation._cancel_one(child.run_id, end, only_mark="1"))[
            0
        ] == "asked"
        async with asyncio.timeout(10):
            assert await received.get() == f"cancel {child.run_id} first".encode()
    assert await owed_at(either, child.run_id) is None
    assert await open_calls(either, root.run_id) == b"1"
    assert await either.queries.cancel_request(child.run_id) == ("first", "first")
    assert await either.queries.cancel_request(other.run_id) is None


async def test_one_that_called_others_is_cancelled_by_the_second_step(either: Ledger) -> None:
    root = await running(either)
    child = child_of(root, root.run_id)
    await either.submissions.submit(child)
    received: asyncio.Queue[bytes | None] = asyncio.Queue()
    channel = f"{either.keys.prefix(root.run_id)}worker:w1"
    await either.pubsub.listen(channel, received.put_nowait)
    assert (await either.cancellation._cancel_one(root.run_id, ENOUGH, only_mark="1"))[
        0
    ] == "marked"
    assert await either.leases.end_unclaimed(child.id, TASK, ENOUGH) == EndResult.ENDED_NOW
    assert (await either.cancellation._cancel_one(root.run_id, ENOUGH))[0] == "asked"
    async with asyncio.timeout(10):
        assert await received.get() == f"cancel {root.run_id} enough".encode()
    assert received.empty()


async def test_one_that_called_others_is_cancelled_also_without_a_mark(either: Ledger) -> None:
    root = await running(either)
    child = await called(either, root)
    await either.leases.settle(child, TASK, child.seq, DONE)
    assert (await either.cancellation._cancel_one(root.run_id, ENOUGH))[0] == "asked"
    assert await either.queries.cancel_request(root.run_id) == ("enough", "cancelled_by_caller")
    assert await either.queries.cancel_request(child.run_id) is None


async def test_one_that_waits_and_called_others_is_marked_first(either: Ledger) -> None:
    root = await running(either)
    await called(either, root)
    await either.leases.requeue(root, root.seq, outcome="retry", reason="x", delay_ms=LONG_MS)
    assert (await either.cancellation._cancel_one(root.run_id, ENOUGH, only_mark="1"))[
        0
    ] == "marked"
    assert (await either.queries.state(root.run_id))[0] is RunState.QUEUED


async def test_a_run_that_ended_is_not_asked(either: Ledger) -> None:
    lease = await running(either)
    await either.leases.settle(lease, TASK, lease.seq, DONE)
    assert not await either.cancellation.cancel(lease.run_id, "enough")
    assert await either.queries.cancel_request(lease.run_id) is None
    assert await owed_at(either, lease.run_id) is None


async def test_a_queued_run_keeps_what_was_asked_of_it(either: Ledger) -> None:
    new = await submitted(either)
    assert await either.cancellation.cancel(new.id, "enough", "budget_exhausted")
    assert await either.queries.cancel_request(new.id) == ("enough", "budget_exhausted")


async def test_a_queued_run_is_the_reapers_at_once_where_its_canceller_may_not_end_it(
    ledger: Ledger,
) -> None:
    ledger.cancellation._may_end_runs = False
    new = await submitted(ledger)
    before = await ledger.directory.now_ms()
    await ledger.cancellation.cancel(new.id, "enough")
    assert before <= (await owed_at(ledger, new.id) or 0) <= await ledger.directory.now_ms()


async def test_a_child_of_an_ended_run_is_the_reapers_two_seconds_later(ledger: Ledger) -> None:
    parent = await running(ledger)
    child = child_of(parent, parent.run_id)
    await ledger.submissions.submit(child)
    await ledger.leases.settle(parent, TASK, parent.seq, DONE)
    before = await ledger.directory.now_ms()
    await ledger.leases.claim(child.id, "w1", "c", LONG_MS, None)
    after = await ledger.directory.now_ms()
    assert before + 2000 <= (await owed_at(ledger, child.id) or 0) <= after + 2000
    # It counts no more among what its parent owes.
    assert await open_calls(ledger, parent.run_id) == b"0"
    assert await ledger.queries.cancel_request(child.id) == (
        "its calling run has ended",
        "parent_ended",
    )


async def test_an_append_answers_to_the_last_number(ledger: Ledger) -> None:
    lease = await running(ledger)
    args = (lease.token, 1, lease.seq + 2, 100, "", *event())
    assert await call(ledger, "append", lease.run_id, *args) == [-1, lease.seq]
    args = (lease.token, 1, lease.seq + 1, 100, "", *event())
    for _ in range(2):
        assert await call(ledger, "append", lease.run_id, *args) == [1, lease.seq + 1, b""]
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert await call(ledger, "append", lease.run_id, *args) == [0]


async def test_small_answers(ledger: Ledger) -> None:
    """Those that are numbers: yes or no, and nothing else."""
    lease = await running(ledger, budget_tokens=5)
    run_id, token = lease.run_id, lease.token
    chunk = ("u1", 0, b"x", 60_000)
    entry = ("a", b'{"blob":"u1","chunks":1}')
    assert await call(ledger, "write_chunk", run_id, token, *chunk) == 1
    assert await call(ledger, "write_chunk", run_id, token + 1, *chunk) == 0
    assert await call(ledger, "commit_artifact", run_id, token, *entry, 1) == 1
    assert await call(ledger, "commit_artifact", run_id, token + 1, *entry, 1) == 0
    other = ("b", b'{"blob":"u2","chunks":1}')
    assert await call(ledger, "commit_artifact", run_id, token, *other, 1) == -1
    assert await call(ledger, "charge_tokens", run_id, 4) == 0
    assert await call(ledger, "charge_tokens", run_id, 1) == 1
    assert await call(ledger, "expire_lease", run_id, "w2") == 0
    assert await call(ledger, "finish_cleanup", run_id) == 0
    assert await call(ledger, "finish_cleanup", "unknown") == 0
    await touch(ledger, "ZADD", "unknown", "cleanups", 1, "unknown")
    assert await call(ledger, "finish_cleanup", "unknown") == 1
    assert await call(ledger, "expire_lease", run_id, "w1") == 1
    assert (await reap(ledger)).to_publish == (run_id,)


async def requests(ledger: Ledger, run_id: str) -> Any:
    return await touch(ledger, "HGET", run_id, f"run:{run_id}", "requests")


async def test_a_request_is_noted_once_and_only_where_it_has_a_name(either: Ledger) -> None:
    lease = await running(either)
    await either.cancellation._cancel_one(lease.run_id, ENOUGH)
    assert await requests(either, lease.run_id) is None
    for _ in range(2):
        for name in ("a" * 16, "b" * 16):
            await either.cancellation._cancel_one(lease.run_id, ENOUGH, "1", name)
    assert await requests(either, lease.run_id) == b"a" * 16 + b"b" * 16


async def test_one_that_its_callers_list_does_not_name_does_not_count_there(
    valkey: ValkeyServer,
) -> None:
    """An idempotency key brought the caller back, which has called another since."""
    ledger = Ledger(settings_for(valkey))
    try:
        parent = await running(ledger)
        other = await called(ledger, parent)
        await touch(ledger, "SREM", parent.run_id, f"children:{parent.run_id}", other.run_id)
        await ledger.leases.settle(other, TASK, other.seq, DONE)
        assert await open_calls(ledger, parent.run_id) == b"1"
    finally:
        await ledger.close()


async def test_a_round_answers_to_the_last_number(ledger: Ledger) -> None:
    for limit, more in ((3, 0), (2, 1)):
        leases = [await running(ledger) for _ in range(2)]
        for lease in leases:
            await lapse(ledger, lease.run_id)
        options = ("reaper", 5000, limit, 10_000, "-", "-", b'{"state":"queued"}')
        prefix = (ledger.keys.prefix("x"),)
        reply = await run_script(ledger.connection, "reap", prefix, options)
        publish, close, counts, more_found, owed, restarted = reply
        assert {name.decode() for name in publish} == {lease.run_id for lease in leases}
        assert counts == [b"restarted", 2, b"due", 0, b"stranded", 0, b"pruned", 0, b"aside", 0]
        assert (close, more_found, owed) == ([], more, [])
        assert sorted(restarted) == sorted(publish)


async def test_the_last_call_of_a_budget_can_be_paid(ledger: Ledger) -> None:
    lease = await running(ledger, budget_calls=1, budget_tokens=1)
    await ledger.budgets.charge_call(lease)
    assert await touch(ledger, "HGET", lease.run_id, f"run:{lease.run_id}", "spent_calls") == b"1"
    other = await running(ledger, budget_calls=1, budget_tokens=1)
    assert await ledger.submissions.submit(child_of(other, other.run_id))


async def test_what_has_no_budget_is_not_charged(ledger: Ledger) -> None:
    root = await running(ledger, budget_calls=3)
    child = child_of(root, root.run_id)
    await ledger.submissions.submit(child)
    lease = await claimed(ledger, child.id)
    await ledger.budgets.charge_call(lease)
    await ledger.submissions.submit(child_of(lease, root.run_id))
    spent = [
        await touch(ledger, "HGET", run_id, f"run:{run_id}", "spent_calls")
        for run_id in (root.run_id, child.id)
    ]
    assert spent == [b"3", None]
