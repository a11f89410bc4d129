"""A run that a live run with a journal has called is kept until its caller's end.

From then on it is kept as long as any other.
"""

import orjson
import pytest

from skillfleet.errors import UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease, Submission, WriteResult
from tests.ledger.durable import entry, last, message, opened, parked, recorded, step_event
from tests.ledger.helpers import DONE, LONG_MS, child_of, claimed, reap, running, submitted, touch

TASK = "librarian.survey"
SHORT_MS = 60_000
YEARS_MS = 300 * 86_400_000
KINDS_OF_KEYS = (
    *("run", "events", "attempts", "artifacts", "children"),
    *("journal", "values", "emitted", "unfinished", "decisions", "inbox"),
)


async def called(ledger: Ledger, lease: Lease) -> Submission:
    child = child_of(lease, lease.run_id, parent_token=lease.token, retention_ms=SHORT_MS)
    assert await ledger.submissions.submit(child)
    return child


async def end_with_everything(ledger: Ledger, run_id: str) -> None:
    """End a run that has keys of every kind."""
    lease = await claimed(ledger, run_id)
    await ledger.leases.requeue(lease, lease.seq, outcome="retry", reason="x")
    lease = await claimed(ledger, run_id)
    await ledger.streams.append(lease, lease.seq + 1, [step_event("s")], emitted={"": 1})
    await ledger.artifacts.fenced("write_chunk", lease, "u", 0, b"x", LONG_MS)
    artifact = orjson.dumps({"blob": "u", "chunks": 1})
    await ledger.artifacts.fenced("commit_artifact", lease, "a", artifact, 9)
    await ledger.journals.write_value(lease, "d", b"x")
    await recorded(ledger, lease, entry(value=None, size=1, digest="d"))
    await opened(ledger, lease)
    await touch(ledger, "HSET", run_id, f"decisions:{run_id}", "0", "answered 0 0")
    await ledger.waits.send(run_id, message())
    below = await called(ledger, lease)
    await ledger.leases.end_unclaimed(below.id, TASK, DONE)
    settled = await ledger.leases.settle(lease, TASK, await last(ledger, run_id), DONE)
    assert settled.result is WriteResult.SETTLED


async def times_to_live(ledger: Ledger, run_id: str) -> dict[str, int]:
    names = [f"{kind}:{run_id}" for kind in KINDS_OF_KEYS]
    names += [f"blob:{run_id}:{blob}" for blob in ("u", "d")]
    left = {name: await touch(ledger, "PTTL", run_id, name) for name in names}
    result = ledger.keys.result_key(run_id)
    return left | {"result": await ledger.connection.execute("PTTL", result)}


async def expires(ledger: Ledger, run_id: str) -> float:
    member = f"succeeded|librarian|{len(run_id)}|0|{run_id}"
    score = await touch(ledger, "ZSCORE", run_id, "expiring", member)
    return float(score) - await ledger.directory.now_ms()


async def test_a_called_run_is_kept_until_its_callers_end(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    child = await called(ledger, lease)
    await end_with_everything(ledger, child.id)
    left = await times_to_live(ledger, child.id)
    assert all(millis > YEARS_MS for millis in left.values()), left
    assert await expires(ledger, child.id) > YEARS_MS
    await ledger.leases.settle(lease, TASK, await last(ledger, lease.run_id), DONE)
    left = await times_to_live(ledger, child.id)
    assert all(0 < millis <= SHORT_MS for millis in left.values()), left
    assert 0 < await expires(ledger, child.id) <= SHORT_MS
    assert await touch(ledger, "ZCARD", child.id, "expiring") == 3


async def test_a_parked_caller_gets_the_result_of_a_call_after_its_retention(
    ledger: Ledger,
) -> None:
    lease = await running(ledger)
    child = await called(ledger, lease)
    await parked(ledger, lease)
    attempt = await claimed(ledger, child.id)
    await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
    assert await expires(ledger, child.id) > YEARS_MS
    assert (await ledger.queries.end(child.id)) == DONE


async def test_others_are_kept_as_long_as_ever(ledger: Ledger) -> None:
    without, ended = await running(ledger), await running(ledger)
    await recorded(ledger, ended, entry())
    first, second = await called(ledger, without), await called(ledger, ended)
    await ledger.leases.settle(ended, TASK, ended.seq, DONE)
    alone = await submitted(ledger, retention_ms=SHORT_MS)
    for run_id in (first.id, second.id, alone.id):
        await ledger.leases.end_unclaimed(run_id, TASK, DONE)
        assert 0 < await expires(ledger, run_id) <= SHORT_MS
    before = await touch(ledger, "PEXPIRETIME", first.id, f"run:{first.id}")
    await recorded(ledger, without, entry())
    await ledger.leases.settle(without, TASK, without.seq, DONE)
    assert await touch(ledger, "PEXPIRETIME", first.id, f"run:{first.id}") == before


async def test_a_caller_that_ends_leaves_what_still_runs_alone(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    child = await called(ledger, lease)
    attempt = await claimed(ledger, child.id)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert await touch(ledger, "PTTL", child.id, f"run:{child.id}") == -1
    await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
    assert 0 < await expires(ledger, child.id) <= SHORT_MS


async def test_a_kept_run_that_has_to_end_others_keeps_their_list(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    child = await called(ledger, lease)
    attempt = await claimed(ledger, child.id)
    below = await called(ledger, attempt)
    await ledger.leases.settle(attempt, TASK, attempt.seq, DONE)
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    assert await touch(ledger, "PTTL", child.id, f"children:{child.id}") > YEARS_MS
    await ledger.cancellation.clean_up(child.id)
    assert 0 < await touch(ledger, "PTTL", child.id, f"children:{child.id}") <= SHORT_MS
    assert (await ledger.queries.state(below.id))[0].terminal


async def test_a_kept_run_is_forgotten_in_the_end(ledger: Ledger) -> None:
    lease = await running(ledger)
    await recorded(ledger, lease, entry())
    child = await called(ledger, lease)
    await ledger.leases.end_unclaimed(child.id, TASK, DONE)
    for kind in KINDS_OF_KEYS:
        await touch(ledger, "DEL", child.id, f"{kind}:{child.id}")
    # Its list names a run that is gone.
    await ledger.leases.settle(lease, TASK, lease.seq, DONE)
    with pytest.raises(UnknownRunError):
        await ledger.queries.status(child.id)
    await touch(
        ledger, "ZADD", child.id, "expiring", 1, f"succeeded|librarian|{len(child.id)}|0|{child.id}"
    )
    await reap(ledger)
