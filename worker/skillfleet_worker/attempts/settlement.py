"""Settlement: writes how attempts and runs end, for executor, watchdog and reaper alike.

Everything here is fenced by a lease or by its token. So two settlements of one run, in two
processes, never contradict each other: the second one is `LOST` or changes nothing.
"""

import logging

from skillfleet.contracts import ReasonCode
from skillfleet.errors import FleetUnavailableError, SkillfleetError, UnknownRunError
from skillfleet.failures import error_code, error_text
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.records import EndResult, Invocation, WriteResult
from skillfleet_producer.message import envelope
from skillfleet_producer.publisher import Publisher, publish_or_leave
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Parked,
    Released,
    Retry,
    Succeeded,
    goes_on,
    internal_error,
)
from skillfleet_worker.attempts.session import state_to_write

logger = logging.getLogger(__name__)

_SETTLE_SECONDS = 300.0
_CALLER_ENDED = "the calling run has ended"


class Settlement:
    """The writer of outcomes to a ledger. Concurrency: any number at once, on the ledger's loop."""

    def __init__(self, ledger: Ledger, publisher: Publisher) -> None:
        self._ledger = ledger
        self._publisher = publisher

    async def settle(self, attempt: Attempt, events: EventBuffer, outcome: Outcome) -> Outcome:
        """Write the attempt's last events and its outcome, and close the buffer.

        Returns what was written, which differs from `outcome` when that could not be written;
        `Lost` when the lease is gone, or Redis stayed away. Of a parked run, only the end of its
        handler is reported.
        """
        if isinstance(outcome, Parked):
            events.close()
            await self._end_parking(attempt)
            return outcome
        written = WriteResult.LOST
        try:
            if not isinstance(outcome, Lost):
                outcome, written = await self._write_somehow(attempt, events, outcome)
        finally:
            events.close()
        if written is WriteResult.LOST:
            return Lost()
        if not goes_on(outcome) and (attempt.open_calls or attempt.lease.attempt > 1):
            await self._cancel_children(attempt.run_id, _CALLER_ENDED)
        return outcome

    async def _end_parking(self, attempt: Attempt) -> None:
        try:
            await self._ledger.leases.end_parking(attempt.lease)
        except FleetUnavailableError as error:
            logger.warning("run %s continues a lease later: %s", attempt.run_id, error)

    async def settle_at_once(self, attempt: Attempt, outcome: Outcome) -> WriteResult:
        """Write the outcome after the events that are in the stream, without the buffered ones.

        For a process that is about to end. Raises FleetUnavailableError and UnknownRunError.
        """
        written = WriteResult.GAP
        while written is WriteResult.GAP:
            _, seq = await self._ledger.queries.state(attempt.run_id)
            written = await self._write(attempt, seq, outcome)
        if written is WriteResult.SETTLED:
            await self._cancel_children(attempt.run_id, _CALLER_ENDED)
        return written

    async def end_run(self, run_id: str, task: str, end: RunEnd, token: int | None = None) -> bool:
        """End a run that no attempt holds, and the runs it called; False if it cannot end so.

        With `token`, the run ends only if that is still the token of its last attempt.
        """
        ended = (
            await self._ledger.leases.end_unclaimed(run_id, task, end, token) == EndResult.ENDED_NOW
        )
        if ended:
            await self._cancel_children(run_id, f"the calling run ended {end.state}")
        return ended

    async def _write_somehow(
        self, attempt: Attempt, events: EventBuffer, outcome: Outcome
    ) -> tuple[Outcome, WriteResult]:
        """Write the outcome, or another one in place of one that cannot be written."""

        async def write() -> WriteResult:
            return await self._write_after(attempt, events, outcome)

        while True:
            try:
                return outcome, await retry_until(_SETTLE_SECONDS, write)
            except UnknownRunError:
                return outcome, WriteResult.LOST
            except FleetUnavailableError as error:
                logger.critical("run %s could not be settled: %s", attempt.run_id, error)
                return outcome, WriteResult.LOST
            except Exception as error:  # noqa: BLE001 - the run ends all the same
                outcome = _writable(attempt, outcome, error, events_lack=not events.closed)
                events.close()

    async def _write_after(
        self, attempt: Attempt, events: EventBuffer, outcome: Outcome
    ) -> WriteResult:
        """Write the outcome after all events of the attempt."""
        while True:
            await events.flush()
            if attempt.is_lost:
                return WriteResult.LOST
            written = await self._write(attempt, events.seq, outcome)
            if written is not WriteResult.GAP:
                return written
            # Redis came back with less than it had: the run ends after what is left.
            _, seq = await self._ledger.queries.state(attempt.run_id)
            events.continue_after(seq)

    async def _write(self, attempt: Attempt, seq: int, outcome: Outcome) -> WriteResult:
        """Write the outcome once; `seq` is the number of the attempt's last event."""
        ledger, lease = self._ledger, attempt.lease
        match outcome:
            case Retry(delay, message, _, dropped):
                return await ledger.leases.requeue(
                    lease,
                    seq,
                    outcome=outcome.name,
                    reason=message,
                    delay_ms=max(int(delay * 1000), 1),
                    spent_ms=attempt.clock.spent_ms,
                    dropped=dropped,
                )
            case Released(message):
                return await self._release(attempt, seq, message)
            case Parked() | Lost():
                return WriteResult.LOST
            case Cancelled():
                outcome = cancelled_as_asked(await ledger.queries.invocation(lease.run_id), outcome)
        # Runs that this end has made ready are published by now (Ledger.woken).
        state = state_to_write(attempt, ledger, succeeded=isinstance(outcome, Succeeded))
        task, end = attempt.delivery.task, outcome.end()
        settled = await ledger.leases.settle(lease, task, seq, end, state)
        return settled.result

    async def _release(self, attempt: Attempt, seq: int, reason: str) -> WriteResult:
        """Give the run back to its queue at once, and wake a worker for it.

        Where the broker is the ledger's Redis, state and message change together. With any other
        broker, a crash between the two leaves the run to the reaper.
        """
        ledger, lease = self._ledger, attempt.lease
        invocation = await ledger.queries.invocation(lease.run_id)
        if invocation is None:
            return WriteResult.LOST
        message = None
        if ledger.settings.broker_is_ledger:
            queue = ledger.keys.broker_list(invocation.queue, invocation.priority)
            message = (queue, envelope(invocation))
        written = await ledger.leases.requeue(
            lease,
            seq,
            outcome=Released.name,
            reason=reason,
            message=message,
            spent_ms=attempt.clock.spent_ms,
        )
        if message is None and written is WriteResult.REQUEUED:
            await publish_or_leave(self._publisher, invocation, first=invocation.has_journal)
        return written

    async def _cancel_children(self, run_id: str, reason: str) -> None:
        try:
            await self._ledger.cancellation.cancel_children(run_id, reason)
        except FleetUnavailableError as error:
            logger.warning("the children of run %s are left to the reaper: %s", run_id, error)


def cancelled_as_asked(record: Invocation | None, default: Cancelled) -> Cancelled:
    """Return the outcome with the reason and code that the run's record gives, if it has one."""
    if record is None or record.cancel_reason is None:
        return default
    return Cancelled(record.cancel_reason, record.cancel_code or default.code)


def _writable(
    attempt: Attempt, outcome: Outcome, error: Exception, *, events_lack: bool
) -> Outcome:
    """Return an outcome in place of one that cannot be written; raise `error` after the last."""
    if isinstance(outcome, Failed) and outcome.code == ReasonCode.INTERNAL_ERROR:
        raise error
    if events_lack and isinstance(error, SkillfleetError):
        # The events could not be written: a success would lack them, any other end stands.
        failed = Failed(error_code(error), error_text(error), error)
        return failed if isinstance(outcome, Succeeded) else outcome
    logger.error("run %s: its end could not be written", attempt.run_id, exc_info=error)
    detail = f" ({outcome.message})" if outcome.message else ""
    return internal_error(f"the end of the run could not be written{detail}", error)
