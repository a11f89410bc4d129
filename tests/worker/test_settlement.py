"""Settlement: how attempts and runs are written to the ledger, for all who end them."""

import logging
from typing import Any, Never

import pytest

from skillfleet.contracts import ReasonCode, RunState
from skillfleet.errors import SkillfleetError
from skillfleet_ledger.runs.records import Invocation, WriteResult
from skillfleet_producer.publisher import LedgerPublisher, publish_or_leave
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Released,
    Retry,
    Succeeded,
    TimedOut,
)
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.settlement import Settlement
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest
from tests.ledger.helpers import running
from tests.support.valkey import ValkeyServer
from tests.worker.test_attempts import attempt, event_buffer, in_process

ENDS: list[tuple[Outcome, RunState, str]] = [
    (Succeeded(1), RunState.SUCCEEDED, "completed"),
    (Failed("odd", "why"), RunState.FAILED, "odd"),
    (Cancelled("why"), RunState.CANCELLED, "cancelled_by_caller"),
    (TimedOut(), RunState.TIMED_OUT, "deadline_exceeded"),
]


@pytest.mark.parametrize(("outcome", "state", "code"), ENDS, ids=lambda value: str(value)[:9])
def test_an_outcome_that_ends_the_run_is_its_end(
    valkey: ValkeyServer, outcome: Outcome, state: RunState, code: str
) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        settlement = Settlement(process.ledger, process.publisher)
        ending = attempt(lease.token, lease.run_id)
        assert await settlement.settle_at_once(ending, outcome) is WriteResult.SETTLED
        status = await process.ledger.queries.status(lease.run_id)
        assert (status.state, status.code) == (state, code)
        await settlement.settle_at_once(ending, Failed("late", "a second end"))
        assert await process.ledger.queries.status(lease.run_id) == status

    in_process(valkey, body)


@pytest.mark.parametrize("outcome", [Retry(60, "why", ValueError()), Released("why")])
def test_an_outcome_that_goes_on_queues_the_run(valkey: ValkeyServer, outcome: Outcome) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        settlement = Settlement(process.ledger, process.publisher)
        written = await settlement.settle_at_once(attempt(lease.token, lease.run_id), outcome)
        assert written is WriteResult.REQUEUED
        status = await process.ledger.queries.status(lease.run_id)
        assert (status.state, status.attempts[0].outcome) == ("queued", outcome.name)

    in_process(valkey, body)


def test_a_cancelled_run_ends_with_the_reason_of_its_record(valkey: ValkeyServer) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        await process.ledger.cancellation.cancel(lease.run_id, "enough", "too_late")
        settlement = Settlement(process.ledger, process.publisher)
        await settlement.settle_at_once(attempt(lease.token, lease.run_id), Cancelled("other"))
        status = await process.ledger.queries.status(lease.run_id)
        assert (status.message, status.code) == ("enough", "too_late")

    in_process(valkey, body)


@pytest.mark.parametrize("outcome", [Succeeded(1), Failed("odd", "why"), Cancelled("why")])
def test_an_end_that_the_ledger_keeps_refusing_is_tried_a_few_times_only(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    codes: list[str] = []

    async def refuse(*args: Any) -> Never:
        codes.append(args[3].code)
        raise SkillfleetError("refused")

    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        monkeypatch.setattr(process.ledger.leases, "settle", refuse)
        settlement = Settlement(process.ledger, process.publisher)
        ending = attempt(lease.token, lease.run_id)
        with pytest.raises(SkillfleetError, match="refused"):
            await settlement.settle(ending, event_buffer(process, lease), outcome)

    in_process(valkey, body)
    assert len(codes) <= 3
    assert codes[-1] == ReasonCode.INTERNAL_ERROR


@pytest.mark.parametrize(
    ("request_", "outcome"),
    [
        (StopRequest(StopKind.CANCELLED, "why", "code"), Cancelled("why", "code")),
        (StopRequest(StopKind.DEADLINE, "why", "code"), TimedOut("why", "code")),
        (StopRequest(StopKind.BUDGET, "why"), Failed("budget_exhausted", "why")),
        (StopRequest(StopKind.RELEASED, "why"), Released("why")),
        (StopRequest(StopKind.LOST, "why"), Lost()),
    ],
)
def test_a_request_to_stop_has_one_outcome(request_: StopRequest, outcome: Outcome) -> None:
    assert request_.outcome() == outcome


class _Silent(LedgerPublisher):
    async def publish(self, invocation: Invocation, *, first: bool = False) -> None:
        raise TimeoutError


def test_a_message_that_is_not_published_in_time_is_logged_with_its_reason(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(process: WorkerProcess) -> None:
        lease = await running(process.ledger)
        invocation = await process.ledger.queries.invocation(lease.run_id)
        assert invocation is not None
        await publish_or_leave(_Silent(process.ledger), invocation)

    with caplog.at_level(logging.WARNING):
        in_process(valkey, body)
    assert "not published yet: TimeoutError" in caplog.text
