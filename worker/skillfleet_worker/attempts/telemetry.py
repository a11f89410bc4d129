"""What the runtime knows of an attempt, in the words of telemetry."""

import logging
import time
from datetime import datetime
from typing import assert_never

import orjson

from skillfleet.contracts import ReasonCode, RunStatus
from skillfleet.errors import FleetUnavailableError, UnknownRunError
from skillfleet_ledger.runs.store import RunStore
from skillfleet_producer.tracing import run_trace_id
from skillfleet_telemetry.tracing import tracing
from skillfleet_worker.attempts.attempt import Attempt
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
from skillfleet_worker.attempts.spans import Ending, Facts, tell_ended

logger = logging.getLogger(__name__)

_SUCCEEDED = Ending("succeeded")
_LOST = Ending("lost", "its worker was lost", ReasonCode.WORKER_LOST)


def facts_of(attempt: Attempt) -> Facts:
    """Which attempt of which run this is."""
    lease, delivery = attempt.lease, attempt.delivery
    return Facts(
        run_id=lease.run_id,
        root_id=delivery.root_id,
        agent=delivery.agent,
        task=delivery.task,
        queue=delivery.queue,
        trace=delivery.trace,
        trace_id=run_trace_id(delivery.trace, delivery.root_id),
        attempt=lease.attempt,
        waited_ms=lease.waited_ms,
    )


def ending_of(attempt: Attempt, outcome: Outcome) -> Ending:
    """How the attempt ended."""
    match outcome:
        case Succeeded():
            ending = _SUCCEEDED
        case Failed(code, message, error):
            ending = Ending("failed", message, str(code), error)
        case Retry(_, message, error):
            ending = Ending("retry", message, type(error).__name__, error)
        case TimedOut(message, code):
            ending = Ending("timed_out", message, code)
        case Cancelled(reason):
            ending = Ending("cancelled", reason, ordered_at=attempt.stop_requested_at)
        case Released(reason):
            ending = Ending("released", reason)
        case Lost():
            ending = _LOST
        case _:
            assert_never(outcome)
    return ending


async def tell_of_lost_attempt(runs: RunStore, run_id: str) -> None:
    """Tell the spans of the attempt that died with its worker; for who took its lease away."""
    if tracing.tracer is None:
        return
    try:
        status = await runs.status(run_id)
        lost = next((a for a in reversed(status.attempts) if a.outcome == "lost"), None)
        if lost is not None:
            await _tell(runs, status, lost.number, lost.started_at, lost.ended_at)
    except (FleetUnavailableError, UnknownRunError) as error:
        logger.debug("the lost attempt of run %s is not told: %s", run_id, error)


async def tell_of_buried_attempt(runs: RunStore, status: RunStatus) -> None:
    """The same for a run that the reaper ends; `status` is from before its end."""
    if tracing.tracer is not None and status.attempts and status.attempts[-1].ended_at is None:
        last = status.attempts[-1]
        await _tell(runs, status, last.number, last.started_at, None)


async def _tell(
    runs: RunStore, status: RunStatus, number: int, began: datetime, ended: datetime | None
) -> None:
    invocation = await runs.invocation(status.id)
    if invocation is None:
        return
    headers = orjson.loads(invocation.headers)
    facts = Facts(
        run_id=status.id,
        root_id=invocation.root_id,
        agent=status.agent,
        task=status.name,
        queue=status.queue,
        trace=headers,
        trace_id=run_trace_id(headers, invocation.root_id),
        attempt=number,
    )
    end_ns = _nanoseconds(ended) if ended is not None else time.time_ns()
    tell_ended(facts, _LOST, _nanoseconds(began), end_ns)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000) * 1_000_000
