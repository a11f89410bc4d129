"""An attempt that lost its lease changes nothing, whatever it calls, while its successor lives.

Each script that takes a token has its row here, in three situations: the run has a new attempt,
waits for one, or has ended under this very token.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from skillfleet.errors import LimitExceededError
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.runs.records import ClaimStatus, EndResult, Lease, Settled, WriteResult
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    child_of,
    claimed,
    event,
    lapse,
    reap,
    running,
    touch,
)
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
ENTRY = orjson.dumps({"blob": "u1", "chunks": 1})

Call = Callable[[Ledger, Lease], Awaitable[Any]]


async def append(ledger: Ledger, lease: Lease) -> Any:
    return await ledger.streams.append(lease, lease.seq + 1, [event()])


async def append_nothing(ledger: Ledger, lease: Lease) -> Any:
    return await ledger.streams.append(lease, lease.seq + 1, [])


async def write_chunk(ledger: Ledger, lease: Lease) -> Any:
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.fenced("write_chunk", lease, "u2", 0, b"x", 60_000)


async def begin_upload(ledger: Ledger, lease: Lease) -> Any:
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.fenced("begin_upload", lease, "u3", "b", 60_000)


async def commit_artifact(ledger: Ledger, lease: Lease) -> Any:
    with pytest.raises(LeaseLostError):
        await ledger.artifacts.fenced("commit_artifact", lease, "a", ENTRY, 9)


async def renew(ledger: Ledger, lease: Lease) -> Any:
    tokens = {lease.run_id: lease.token}
    return (await ledger.leases.renew("w1", LONG_MS, tokens, timeout=5))[lease.run_id]


async def retry(ledger: Ledger, lease: Lease) -> Any:
    seq = (await ledger.queries.state(lease.run_id))[1]
    return await ledger.leases.requeue(lease, seq, outcome="retry", reason="x", delay_ms=5)


async def release(ledger: Ledger, lease: Lease) -> Any:
    seq = (await ledger.queries.state(lease.run_id))[1]
    message = (ledger.keys.broker_list("celery", 0), b"message")
    return await ledger.leases.requeue(lease, seq, outcome="released", reason="x", message=message)


async def settle(ledger: Ledger, lease: Lease) -> Any:
    seq = (await ledger.queries.state(lease.run_id))[1]
    return await ledger.leases.settle(lease, TASK, seq, DONE)


async def end_unclaimed(ledger: Ledger, lease: Lease) -> Any:
    return await ledger.leases.end_unclaimed(lease.run_id, TASK, DONE, lease.token)


async def charge_call(ledger: Ledger, lease: Lease) -> Any:
    with pytest.raises(LimitExceededError):
        await ledger.budgets.charge_call(lease)


async def submit_child(ledger: Ledger, lease: Lease) -> Any:
    with pytest.raises(LimitExceededError):
        await ledger.submissions.submit(child_of(lease, lease.run_id, parent_token=lease.token))


async def claim_again(ledger: Ledger, lease: Lease) -> Any:
    """Send the claim of the old attempt a second time."""
    return (await ledger.leases.claim(lease.run_id, "w1", "c1", LONG_MS, None)).status


async def expire_lease(ledger: Ledger, lease: Lease) -> Any:
    return await ledger.leases.expire_lease(lease.run_id, "w1")


def everything(server: ValkeyServer) -> dict[bytes, Any]:
    """Return all keys with contents and times to live, except for the presence of workers."""
    with server.client() as client:
        keys = [key for key in client.keys("*") if not key.endswith(b"}:workers")]
        # A hash's dump depends on the size of its table, which reading may change.
        return {
            key: (
                client.hgetall(key) if client.type(key) == b"hash" else client.dump(key),
                client.pexpiretime(key),
            )
            for key in keys
        }


async def first_attempt(ledger: Ledger) -> Lease:
    """Return a lease with a budget, an event, an artifact and an upload, under the claim `c1`."""
    new = await running(ledger, budget_calls=5, max_deliveries=9)
    await ledger.leases.requeue(new, new.seq, outcome="retry", reason="x")
    claim = await ledger.leases.claim(new.run_id, "w1", "c1", LONG_MS, None)
    assert claim.lease is not None
    lease = claim.lease
    await ledger.artifacts.fenced("write_chunk", lease, "u0", 0, b"x", 60_000)
    entry = orjson.dumps({"blob": "u0", "chunks": 1})
    await ledger.artifacts.fenced("commit_artifact", lease, "a", entry, 9)
    await ledger.artifacts.fenced("write_chunk", lease, "u1", 0, b"x", 60_000)
    return lease


CASES: list[tuple[Call, Any]] = [
    (append, None),
    (append_nothing, None),
    (write_chunk, None),
    (begin_upload, None),
    (commit_artifact, None),
    (renew, "lost"),
    (retry, WriteResult.LOST),
    (release, WriteResult.LOST),
    (settle, Settled(WriteResult.LOST)),
    (end_unclaimed, EndResult.CHANGED),
    (charge_call, None),
    (submit_child, None),
]


@pytest.mark.parametrize(
    ("call", "answer"),
    [*CASES, (claim_again, ClaimStatus.DUPLICATE), (expire_lease, False)],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_old_attempt_changes_nothing_of_its_successors(
    ledger: Ledger, valkey: ValkeyServer, call: Call, answer: Any
) -> None:
    lease = await first_attempt(ledger)
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)
    successor = await claimed(ledger, lease.run_id, "w2")
    before = everything(valkey)
    assert await call(ledger, lease) == answer
    assert everything(valkey) == before
    # The successor can do all of it.
    assert await ledger.streams.append(successor, successor.seq + 1, [event()]) is not None
    answers = await ledger.leases.renew("w2", LONG_MS, {lease.run_id: successor.token}, timeout=5)
    assert answers == {lease.run_id: ""}


@pytest.mark.parametrize(("call", "answer"), CASES, ids=lambda v: getattr(v, "__name__", None))
async def test_an_attempt_that_was_given_back_changes_nothing(
    ledger: Ledger, valkey: ValkeyServer, call: Call, answer: Any
) -> None:
    lease = await first_attempt(ledger)
    await lapse(ledger, lease.run_id)
    assert (await reap(ledger)).to_publish == (lease.run_id,)
    before = everything(valkey)
    assert await call(ledger, lease) == answer
    assert everything(valkey) == before


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        *[case for case in CASES if case[0] not in (settle, end_unclaimed)],
        # They answer what they did, or that it was done before.
        (settle, Settled(WriteResult.SETTLED)),
        (end_unclaimed, EndResult.ENDED_BEFORE),
        (claim_again, ClaimStatus.ENDED),
        (expire_lease, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_attempt_that_ended_its_run_changes_nothing_more(
    ledger: Ledger, valkey: ValkeyServer, call: Call, answer: Any
) -> None:
    """The token is still the run's, so the state decides."""
    lease = await first_attempt(ledger)
    assert (await ledger.leases.settle(lease, TASK, lease.seq, DONE)).result is WriteResult.SETTLED
    before = everything(valkey)
    assert await call(ledger, lease) == answer
    assert everything(valkey) == before


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        *[case for case in CASES if case[0] is not end_unclaimed],
        (end_unclaimed, EndResult.ENDED_BEFORE),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_attempt_whose_run_was_ended_under_its_token_changes_nothing(
    ledger: Ledger, valkey: ValkeyServer, call: Call, answer: Any
) -> None:
    lease = await first_attempt(ledger)
    assert (
        await ledger.leases.end_unclaimed(lease.run_id, TASK, DONE, lease.token)
        == EndResult.ENDED_NOW
    )
    before = everything(valkey)
    assert await call(ledger, lease) == answer
    assert everything(valkey) == before


async def test_an_attempt_that_gave_its_run_back_gets_the_same_answer_and_changes_nothing(
    ledger: Ledger, valkey: ValkeyServer
) -> None:
    lease = await first_attempt(ledger)
    assert await release(ledger, lease) is WriteResult.REQUEUED
    successor = await claimed(ledger, lease.run_id, "w2")
    assert (successor.token, successor.attempt) == (lease.token + 2, lease.attempt + 1)
    before = everything(valkey)
    assert await release(ledger, lease) is WriteResult.REQUEUED
    assert await retry(ledger, lease) is WriteResult.REQUEUED
    assert everything(valkey) == before


async def test_a_lease_that_has_run_out_longer_ago_does_not_come_nearer(ledger: Ledger) -> None:
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    assert await ledger.leases.expire_lease(lease.run_id, "w1")
    assert await touch(ledger, "ZSCORE", lease.run_id, "leases", lease.run_id) == b"1"


async def test_tokens_that_a_stale_attempt_has_used_are_paid_for(ledger: Ledger) -> None:
    """The tokens are used, so charging them needs no lease."""
    lease = await running(ledger, budget_tokens=10)
    child = child_of(lease, lease.run_id, budget_tokens=10)
    await ledger.submissions.submit(child)
    await claimed(ledger, child.id)
    assert not await ledger.budgets.charge_tokens(child.id, 9)
    assert await ledger.budgets.charge_tokens(child.id, 1)
    assert await ledger.budgets.charge_tokens(lease.run_id, 0)
    assert not await ledger.budgets.charge_tokens("unknown", 5)
    assert await touch(ledger, "EXISTS", "unknown", "run:unknown") == 0
