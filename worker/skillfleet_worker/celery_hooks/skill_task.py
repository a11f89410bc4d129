"""A skill as a Celery task, and the mapping of its outcomes to Celery's."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, assert_never

from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry
from celery.states import SUCCESS

from skillfleet.agent import Agent
from skillfleet.contracts import HEADER, RunState
from skillfleet.errors import FleetUnavailableError, RunError, RunFailed, RunTimedOut
from skillfleet.skills.skill import Skill
from skillfleet_engine.celery_hooks.task import AsyncTask, synchronous
from skillfleet_engine.loop import bridge
from skillfleet_ledger.runs.records import Claim, ClaimStatus
from skillfleet_telemetry.metrics import REDIS_ERRORS, record
from skillfleet_worker.attempts.delivery import Delivery, read_delivery
from skillfleet_worker.attempts.execution import Registration
from skillfleet_worker.attempts.executor import Executor
from skillfleet_worker.attempts.messages import CANVAS, REPLAYED, name_links
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Parked,
    Released,
    Retry,
    Succeeded,
    TimedOut,
)
from skillfleet_worker.services.node import Node

logger = logging.getLogger(__name__)

CANCELLED = "cancelled"
"""The reason of `Ignore` for a cancelled run; `SkillRequest` sends the event to monitors."""


class RunWaits(Exception):  # noqa: N818 - monitors show it as a reason, not as an error
    """The reason of Celery's retry of a run that waits: `waits for an answer`."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class ReplayedResult:
    """The result of an execution that Celery's tracer still has to report: value or error."""

    value: Any = None
    error: BaseException | None = None

    def __call__(self) -> Any:
        """Return the value or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class SkillTask(AsyncTask):
    """The task class of all skills; `skill`, `agent` and `node` are set on each task."""

    abstract = True
    typing = False
    Strategy = "skillfleet_worker.celery_hooks.strategy:skill_strategy"
    Request = "skillfleet_worker.celery_hooks.request:SkillRequest"
    acks_late = True
    ignore_result = True
    # Celery stores a failure for what is chained after a failed run, not for the run itself.
    store_errors_even_if_ignored = True
    max_retries = None

    skill: Skill[..., Any]
    agent: Agent
    node: Node

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Execute one delivery; called by Celery's tracer."""
        try:
            return self._run(*args, **kwargs)
        except CeleryRetry as retry:
            # Celery copies each frame for the event, which costs more than the attempt did. None of
            # them is the skill's.
            raise retry.with_traceback(None)  # noqa: B904 - it is the same error

    @synchronous
    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        request = vars(self.request)
        if HEADER not in request:
            name_links(request, request["id"])
        replayed = request.get(REPLAYED)
        # A message's header of that name is not trusted.
        if isinstance(replayed, ReplayedResult):
            return replayed()
        return await self.execute(request, args, kwargs)

    async def execute(
        self, request: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Execute one delivery; `request` is its message's headers and what Celery adds.

        Returns the skill's value; raises the Celery exception for any other outcome.
        """
        executor = await self.node.executor()
        names, limit = self._names, self.node.settings.max_arguments_bytes
        delivery = read_delivery(self.name, request, args, kwargs, names, limit)
        if executor.process.draining:
            raise Reject("the worker is draining", requeue=True)
        try:
            ended = await executor.run(self.registration, delivery)
            if isinstance(ended, Claim) and await self._takes_canvas(executor, delivery, ended):
                return await self._end_again(executor, delivery.run_id)
        except FleetUnavailableError as error:
            record(REDIS_ERRORS, 1, "claim")
            logger.warning("the message of run %s is requeued: %s", delivery.run_id, error)
            raise Reject(error, requeue=True) from error
        if isinstance(ended, Succeeded):
            return ended.value
        if isinstance(ended, Claim):
            return self._declined(delivery.run_id, ended)
        return self._to_celery(delivery.run_id, ended)

    def after_return(self, status: Any, retval: Any, task_id: Any, *args: Any, **more: Any) -> None:
        """Record that Celery has started the callbacks of the run.

        Not after an error that is not the run's: then a callback could not be sent.
        """
        del args, more
        if status != SUCCESS and not isinstance(retval, RunError):
            return
        request = vars(self.request)
        process = self.node.process
        if process is not None and HEADER not in request and any(map(request.get, CANVAS)):
            try:
                bridge.run(bridge.at_home(process.ledger.maintenance.finish_canvas(task_id)))
            except FleetUnavailableError as error:
                logger.warning("the canvas of run %s is started again: %s", task_id, error)

    async def _takes_canvas(self, executor: Executor, delivery: Delivery, claim: Claim) -> bool:
        """Return True when the run ended without a worker, so that its canvas continues here."""
        if claim.status is not ClaimStatus.ENDED or not (delivery.plain and delivery.plain.canvas):
            return False
        return await bridge.at_home(
            executor.process.ledger.maintenance.take_canvas(delivery.run_id)
        )

    async def _end_again(self, executor: Executor, run_id: str) -> Any:
        """Return or raise the recorded end of a run, so that Celery's tracer continues from it."""
        end = await bridge.at_home(executor.process.ledger.queries.end(run_id))
        if end is None or end.state is RunState.SUCCEEDED:
            return None if end is None else end.value
        raise RunFailed(end.message, code=end.code, run_id=run_id)

    @cached_property
    def registration(self) -> Registration:
        """The skill as the executor needs it."""
        limits = (self.time_limit, self.soft_time_limit)
        return Registration(self.skill, self.agent, limits)

    @cached_property
    def _names(self) -> list[str]:
        return list(self.skill.spec.input_schema.get("properties", {}))

    def _declined(self, run_id: str, claim: Claim) -> None:
        """Acknowledge and drop a message that got no lease."""
        logger.info("run %s is not executed: %s %s", run_id, claim.status, claim.detail)
        if claim.status is ClaimStatus.CANCELLED or claim.detail == RunState.CANCELLED:
            raise Ignore(CANCELLED)
        raise Ignore(f"not executed: {claim.status}")

    def _to_celery(self, run_id: str, outcome: Outcome) -> Any:
        """Return or raise what makes Celery's events agree with the ledger."""
        match outcome:
            case Succeeded(value):
                return value
            case Failed(code, message, error):
                raise RunFailed(message, code=code, run_id=run_id) from error
            case Retry(delay, message, error):
                raise CeleryRetry(message, error, datetime.now(UTC) + timedelta(seconds=delay))
            case TimedOut(message, code):
                raise RunTimedOut(message, code=code, run_id=run_id)
            case Cancelled():
                raise Ignore(CANCELLED)
            case Released(reason):
                raise Ignore(f"released: {reason}")
            case Parked(reason):
                raise CeleryRetry(reason, RunWaits(reason))
            case Lost():
                logger.warning(
                    "run %s lost its lease to another worker: its outcome is dropped", run_id
                )
                raise Ignore("lost")
            case _:
                assert_never(outcome)
