"""Claiming runs and renewing their leases."""

import asyncio

import pytest

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Claim, ClaimStatus, WriteResult
from tests.ledger.helpers import (
    DONE,
    LONG_MS,
    claimed,
    lapse,
    newest,
    read_all,
    reap,
    running,
    submission,
    submitted,
    touch,
)
from tests.support.waiting import wait_until_async


async def test_a_claim_starts_the_first_attempt_under_a_lease(ledger: Ledger) -> None:
    new = await submitted(ledger)
    lease = await claimed(ledger, new.id, "w7")
    assert (lease.token, lease.attempt, lease.seq) == (1, 1, 1)
    assert lease.deadline_ms is None
    assert lease.waited_ms >= 0
    status = await ledger.queries.status(new.id)
    assert (status.state, status.worker, status.attempt) == (RunState.RUNNING, "w7", 1)
    assert status.attempts[0].worker == "w7"
    assert status.attempts[0].ended_at is None


async def test_a_second_delivery_of_a_running_run_is_a_duplicate(ledger: Ledger) -> None:
    lease = await running(ledger)
    claim = await ledger.leases.claim(lease.run_id, "w2", "other", LONG_MS, None)
    assert (claim.status, claim.lease) == (ClaimStatus.DUPLICATE, None)


async def test_a_repeated_claim_gets_the_same_lease(ledger: Ledger) -> None:
    new = await submitted(ledger)
    first = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    again = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    assert first.lease is not None
    assert again.lease is not None
    assert (again.lease.token, again.lease.attempt) == (first.lease.token, first.lease.attempt)
    assert (await ledger.queries.status(new.id)).attempt == 1


async def test_of_many_claims_at_once_one_wins(ledger: Ledger) -> None:
    new = await submitted(ledger)
    claims = await asyncio.gather(
        *(ledger.leases.claim(new.id, f"w{i}", f"c{i}", LONG_MS, None) for i in range(50))
    )
    statuses = [claim.status for claim in claims]
    assert statuses.count(ClaimStatus.CLAIMED) == 1
    assert statuses.count(ClaimStatus.DUPLICATE) == 49


async def test_a_repeated_claim_gets_no_lease_that_the_reaper_took_back(ledger: Ledger) -> None:
    new = await submitted(ledger, max_deliveries=1)
    first = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    await lapse(ledger, new.id)
    assert first.lease is not None
    assert (await reap(ledger)).to_end == ((new.id, first.lease.token + 1, "dead"),)
    again = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    assert again.status is ClaimStatus.DUPLICATE


async def test_a_finished_run_is_not_claimed_again(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    claim = await ledger.leases.claim(lease.run_id, "w2", "other", LONG_MS, None)
    assert (claim.status, claim.detail) == (ClaimStatus.ENDED, "succeeded")


async def test_a_delayed_run_is_not_claimed_before_it_is_due(ledger: Ledger) -> None:
    new = await submitted(ledger, delay_ms=60_000)
    claim = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    assert claim.status is ClaimStatus.EARLY
    await touch(ledger, "HSET", new.id, f"run:{new.id}", "due", 1)
    lease = await claimed(ledger, new.id)
    assert (await ledger.queries.status(new.id)).due_at is None
    assert lease.attempt == 1


async def test_an_overdue_run_is_not_started(ledger: Ledger) -> None:
    new = await submitted(ledger, deadline_ms=1)
    claim = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    assert claim.status is ClaimStatus.OVERDUE
    assert (await ledger.queries.status(new.id)).attempt == 0


async def test_a_run_cancelled_while_it_ran_is_not_started_again(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.cancellation.cancel(lease.run_id, "enough")
    assert (
        await ledger.leases.requeue(lease, lease.seq, outcome="released", reason="drain")
        is WriteResult.REQUEUED
    )
    claim = await ledger.leases.claim(lease.run_id, "w2", "c2", LONG_MS, None)
    assert (claim.status, claim.detail) == (ClaimStatus.CANCELLED, "enough")


async def test_an_unknown_run_is_refused_unless_its_message_describes_it(ledger: Ledger) -> None:
    new = submission(deadline_ms=4_102_444_800_000)
    refused = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None)
    assert refused.status is ClaimStatus.UNKNOWN
    adopted = await ledger.leases.claim(new.id, "w1", "c2", LONG_MS, new)
    assert adopted.status is ClaimStatus.CLAIMED
    assert adopted.lease is not None
    assert adopted.lease.deadline_ms == new.deadline_ms
    status = await ledger.queries.status(new.id)
    assert (status.name, status.state) == ("librarian.survey", RunState.RUNNING)


@pytest.mark.parametrize("run_id", ["order|42", "a b/c:ü"])
async def test_a_foreign_run_may_have_any_id_that_celery_allows(
    ledger: Ledger, run_id: str
) -> None:
    new = submission(id=run_id, retention_ms=1)
    claim = await ledger.leases.claim(run_id, "w1", "c1", LONG_MS, new)
    assert claim.lease is not None
    await ledger.leases.settle(claim.lease, "librarian.survey", claim.lease.seq, DONE)

    async def pruned() -> bool:
        return (await reap(ledger)).counts["pruned"] == 1

    await wait_until_async(pruned, what="the run to be forgotten")
    assert await newest(ledger) == []


async def test_every_claim_is_announced_in_the_stream(ledger: Ledger) -> None:
    lease = await running(ledger)
    await ledger.leases.settle(lease, "librarian.survey", lease.seq, DONE)
    first, last = await read_all(ledger, lease.run_id)
    assert (first.state, first.attempt, first.payload["worker"]) == (RunState.RUNNING, 1, "w1")
    assert last.final


async def test_one_call_renews_all_leases_of_a_process(ledger: Ledger) -> None:
    leases = [await running(ledger) for _ in range(300)]
    for lease in leases[:10]:
        await lapse(ledger, lease.run_id)
    answers = await ledger.leases.renew(
        "w1", LONG_MS, {lease.run_id: lease.token for lease in leases}, timeout=5
    )
    assert set(answers.values()) == {""}
    assert len(answers) == 300
    assert (await reap(ledger)).to_publish == ()
    assert await ledger.directory.workers() == ["w1"]


async def test_a_renewal_reports_what_is_lost_and_what_is_cancelled(ledger: Ledger) -> None:
    kept, lost, cancelled = [await running(ledger) for _ in range(3)]
    await lapse(ledger, lost.run_id)
    await reap(ledger)
    await ledger.cancellation.cancel(cancelled.run_id, "enough")
    tokens = {lease.run_id: lease.token for lease in (kept, lost, cancelled)} | {"unknown": 1}
    assert await ledger.leases.renew("w1", LONG_MS, tokens, timeout=5) == {
        kept.run_id: "",
        lost.run_id: "lost",
        cancelled.run_id: "!enough",
        "unknown": "lost",
    }


async def test_a_worker_without_runs_renews_its_presence(ledger: Ledger) -> None:
    assert await ledger.leases.renew("idle", LONG_MS, {}, timeout=5) == {}
    assert await ledger.directory.workers() == ["idle"]


async def test_the_lease_of_a_dead_process_can_be_ended_before_its_time(ledger: Ledger) -> None:
    new = await submitted(ledger)
    await claimed(ledger, new.id, "host:12-abcd")
    assert not await ledger.leases.expire_lease(new.id, "host:1-")
    assert (await reap(ledger)).to_publish == ()
    assert await ledger.leases.expire_lease(new.id, "host:12-")
    assert (await reap(ledger)).to_publish == (new.id,)
    assert not await ledger.leases.expire_lease(new.id, "host:12-")
    status = await ledger.queries.status(new.id)
    assert [attempt.outcome for attempt in status.attempts] == ["lost"]


@pytest.mark.parametrize(
    ("tags", "tenant", "expected"),
    [
        ({}, None, {}),
        ({"tenant": "acme"}, None, {"tenant": "acme"}),
        ({}, "", {}),
        ({}, "acme", {"tenant": "acme"}),
        ({"tenant": "acme"}, "acme", {"tenant": "acme"}),
        ({"plan": "pro"}, "acme", {"plan": "pro", "tenant": "acme"}),
        ({"a": "1", "tenant": "acme", "z": "2"}, "acme", {"a": "1", "tenant": "acme", "z": "2"}),
        ({"sub.tenant": "other"}, "acme", {"sub.tenant": "other", "tenant": "acme"}),
        ({"tenant": "acme"}, "", None),
        ({"tenant": "acme"}, "acm", None),
        ({"plan": "pro", "tenant": "acme"}, "umbrella", None),
    ],
)
async def test_a_run_is_claimed_for_the_tenant_of_its_caller_only(
    ledger: Ledger, tags: dict[str, str], tenant: str | None, expected: dict[str, str] | None
) -> None:
    """`expected`: the tags that it has then; None where it is not claimed."""
    new = await submitted(ledger, tags=tags)

    async def take() -> Claim:
        return await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, None, tenant=tenant)

    claim = await take()
    status = await ledger.queries.status(new.id)
    if expected is None:
        assert (claim.status, claim.token) == (ClaimStatus.OTHER_TENANT, 0)
        assert (status.state, status.tags) == (RunState.QUEUED, tags)
        return
    for each in (claim, await take()):
        assert each.lease is not None
        assert each.lease.tags == expected
    assert status.tags == expected
    for key, value in expected.items():
        assert [run.id for run in await newest(ledger, tags={key: value})] == [new.id]


async def test_a_plain_clients_run_gets_the_tenant_of_its_caller(ledger: Ledger) -> None:
    new = submission()
    claim = await ledger.leases.claim(new.id, "w1", "c1", LONG_MS, new, tenant="acme")
    assert claim.lease is not None
    assert claim.lease.tags == {"tenant": "acme"}
    assert [run.id for run in await newest(ledger, tags={"tenant": "acme"})] == [new.id]
