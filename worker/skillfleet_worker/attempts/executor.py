"""Executor: takes one delivery of a run's message from admission to its settled outcome."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping

import orjson

from skillfleet.contracts import RunState
from skillfleet.errors import UnknownRunError
from skillfleet_engine.loop import bridge
from skillfleet_ledger.runs.records import Claim, Invocation
from skillfleet_producer.message import headers
from skillfleet_telemetry.logs import begin_run
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.claims import Claimed, Claims
from skillfleet_worker.attempts.context import Capabilities
from skillfleet_worker.attempts.delivery import Delivery, read_delivery
from skillfleet_worker.attempts.event_buffer import EventBuffer, EventBufferHooks
from skillfleet_worker.attempts.execution import Execution, Registration
from skillfleet_worker.attempts.inline_runs import join_inline_runs, stop_inline_runs
from skillfleet_worker.attempts.messages import (
    TIME_LIMIT,
    WORKER_TIME_LIMITS,
    attempt_time_limit,
)
from skillfleet_worker.attempts.outcomes import Lost, Outcome
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.settlement import Settlement
from skillfleet_worker.attempts.telemetry import AttemptTelemetry

logger = logging.getLogger(__name__)


class Executor:
    """The executor of a process's deliveries. `served` has its skills, by task name."""

    def __init__(
        self,
        process: WorkerProcess,
        capabilities: Capabilities,
        served: Mapping[str, Registration],
    ) -> None:
        self.process = process
        self._served = served
        self._claims = Claims(process, capabilities.admission)
        self._execution = Execution(process.settings, capabilities, process.random.random)
        self._settlement = Settlement(process.ledger, process.publisher)

    async def run(self, served: Registration, delivery: Delivery) -> Outcome | Claim:
        """Take a delivery to its outcome; return the claim when it gave no lease.

        A caller who may not start the run gets no attempt. Call it on the loop that the handler
        is to run on. Raises FleetUnavailableError when the run could not be claimed: nothing has
        happened then.
        """
        process = self.process
        taken = await bridge.at_home(self._claims.take(served, delivery))
        if not isinstance(taken, Claimed):
            return taken
        if process.loop_time() - taken.requested_at >= process.settings.lease_seconds:
            # This process stood still, or Redis did: another one may execute the run by now.
            return Lost()
        run_child_inline = functools.partial(self.run_queued, taken.delivery)
        attempt = Attempt(
            taken.lease,
            taken.delivery,
            taken.requested_at,
            run_child_inline,
            durable=served.skill.spec.durable,
        )
        events = self._event_buffer(attempt)
        process.begin(attempt)
        try:
            with AttemptTelemetry(
                attempt, taken.requested_ns, process.settings.tag_keys
            ) as telemetry:
                outcome = await self._execution.run(served, attempt, events)
                attempt.end()
                stop_inline_runs(process, attempt, outcome)
                await attempt.cleanups.run(attempt.run_id)
                with _telemetry_of(attempt):
                    telemetry.executed(outcome)
                outcome = await bridge.at_home(self._settlement.settle(attempt, events, outcome))
                await join_inline_runs(process, attempt, outcome)
                with _telemetry_of(attempt):
                    telemetry.settled(outcome, events.flushed_ns)
                return outcome
        finally:
            attempt.end()
            try:
                # Again, for an attempt whose own task was cancelled.
                await attempt.cleanups.run(attempt.run_id)
            finally:
                process.end(attempt)

    async def run_queued(self, caller: Delivery, run_id: str) -> None:
        """Execute a run that is still queued in the slot of its caller, without its message.

        Does nothing for a run in another state, or of a skill that this worker does not serve.
        The run's message later finds it taken, or ended. Concurrency and errors as `run`.
        """
        record = await bridge.at_home(self._queued(run_id))
        served = self._served.get(record.task) if record is not None else None
        if record is None or served is None or self.process.draining:
            return
        begin_run(run_id, record.task)
        request = {**headers(record), "delivery_info": {"routing_key": record.queue}}
        request[WORKER_TIME_LIMITS] = caller.worker_time_limits
        request[TIME_LIMIT] = attempt_time_limit(request, served.time_limits)
        limit = self.process.settings.max_arguments_bytes
        arguments = orjson.loads(record.args)
        delivery = read_delivery(record.task, request, (), arguments, (), limit)
        await self.run(served, delivery)

    async def _queued(self, run_id: str) -> Invocation | None:
        ledger = self.process.ledger
        try:
            state, _ = await ledger.queries.state(run_id)
        except UnknownRunError:
            return None
        return await ledger.queries.invocation(run_id) if state is RunState.QUEUED else None

    def _event_buffer(self, attempt: Attempt) -> EventBuffer:
        settings = self.process.settings
        return EventBuffer(
            self.process.ledger.streams,
            attempt.lease,
            EventBufferHooks(attempt.lose, attempt.cancel),
            flush_seconds=settings.flush_seconds,
            patience_seconds=settings.events_patience_seconds,
        )


@contextlib.contextmanager
def _telemetry_of(attempt: Attempt) -> Iterator[None]:
    """Log errors raised inside: telemetry never decides how an attempt ends."""
    try:
        yield
    except Exception:
        logger.exception("run %s: its telemetry failed", attempt.run_id)
