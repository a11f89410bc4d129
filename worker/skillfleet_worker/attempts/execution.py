"""Execution: runs a skill's handler for one attempt and judges how it ended."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from skillfleet.agent import Agent
from skillfleet.auth import auth_from_claims
from skillfleet.contracts import ReasonCode
from skillfleet.durable.journal import Journal, journal_of
from skillfleet.errors import SkillfleetError
from skillfleet.failures import error_code, error_text, failure_of, is_cancellation, leaves
from skillfleet.ports.session import own_session
from skillfleet.retry import retry_delay
from skillfleet.skills.skill import Skill
from skillfleet.validation import check_result_size
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.context import Capabilities, ContextState, FleetRunContext
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.mismatch import check_unused
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Retry,
    Succeeded,
    internal_error,
    shortened,
)
from skillfleet_worker.attempts.session import session_of
from skillfleet_worker.attempts.supervision import HandlerEnd, HandlerExitError, supervise
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


class Registration(NamedTuple):
    """A skill that a worker serves, with its agent and its own time limits."""

    skill: Skill[..., Any]
    agent: Agent
    time_limits: tuple[float | None, float | None] = (None, None)
    """Hard and soft limit of the skill's Celery task, in seconds."""


class Execution:
    """Executes attempts of one process. Concurrency: any number at once, on any loop."""

    def __init__(
        self, settings: WorkerSettings, capabilities: Capabilities, jitter: Callable[[], float]
    ) -> None:
        """`jitter` returns a random number from 0 to 1, for the delays of retries."""
        self._settings = settings
        self._capabilities = capabilities
        self._jitter = jitter

    async def run(self, served: Registration, attempt: Attempt, events: EventBuffer) -> Outcome:
        """Run the handler to its end and return the outcome. On the attempt's loop.

        Errors of the handler, and of the worker's own code around it, become outcomes.
        """
        skill, delivery, spec = served.skill, attempt.delivery, served.skill.spec
        if (problem := delivery.problem) is not None:
            return Failed(error_code(problem), error_text(problem), problem)
        try:
            bound = skill.check_and_bind(delivery.arguments)
            auth = auth_from_claims(served.agent.auth_model, delivery.auth)
            state = ContextState(
                attempt, events, auth, spec, self._capabilities, served.agent.version
            )
            ctx = FleetRunContext(state)
            ctx.require_scopes(spec.scopes)
            with _session_is_own(attempt, self._capabilities):
                ended = await supervise(skill(ctx, **bound), attempt, self._settings)
        except SkillfleetError as error:
            return Failed(error_code(error), error_text(error), error)
        except Exception as error:
            logger.exception("run %s: its handler could not be executed", attempt.run_id)
            return internal_error("the handler could not be executed", error)
        journal = journal_of(ctx) if state.has_journal else None
        outcome = (
            self._judge(skill, attempt, ended, journal) if isinstance(ended, HandlerEnd) else ended
        )
        try:
            if isinstance(outcome, Succeeded) and attempt.lease.has_journal:
                outcome = await check_unused(ctx, served.agent, attempt.lease, outcome)
            return shortened(await state.finish(outcome))
        except LeaseLostError:
            return Lost()
        except Exception as error:
            logger.exception("run %s: its outcome could not be prepared", attempt.run_id)
            # Without the error's own text, which may hold a secret.
            return Failed(
                ReasonCode.INTERNAL_ERROR,
                f"the outcome could not be prepared: {type(error).__name__}",
            )

    def _judge(
        self,
        skill: Skill[..., Any],
        attempt: Attempt,
        ended: HandlerEnd,
        journal: Journal | None,
    ) -> Outcome:
        """Return what the handler's end means for the run."""
        try:
            if ended.error is None:
                return self._returned(skill, ended.value)
            return self._raised(skill, attempt, ended.error, journal)
        except Exception as error:
            logger.exception("run %s: the end of its handler could not be judged", attempt.run_id)
            return internal_error("the end of the handler could not be judged", error)

    def _returned(self, skill: Skill[..., Any], value: Any) -> Outcome:
        try:
            return Succeeded(self._dump(skill, value))
        except SkillfleetError as problem:
            return Failed(error_code(problem), error_text(problem), problem)

    def _dump(self, skill: Skill[..., Any], value: Any) -> Any:
        dumped = skill.dump(value)
        check_result_size(skill.spec.task_name, dumped, self._settings.max_result_bytes)
        return dumped

    def _raised(
        self,
        skill: Skill[..., Any],
        attempt: Attempt,
        error: BaseException,
        journal: Journal | None,
    ) -> Outcome:
        if any(isinstance(leaf, LeaseLostError) for leaf in leaves(error)):
            return Lost()
        if attempt.is_overdue(error):
            return attempt.timed_out()
        if isinstance(error, asyncio.CancelledError):
            message = "the handler raised CancelledError, but the run was not cancelled"
            return Failed(ReasonCode.SKILL_ERROR, message)
        if is_cancellation(error):
            return Cancelled(attempt.cancel_reason or failure_of(error).message)
        outcome = self._failed(skill, attempt, error)
        if isinstance(outcome, Retry) and journal is not None:
            return replace(outcome, dropped=journal.failures_in(error))
        return outcome

    def _failed(self, skill: Skill[..., Any], attempt: Attempt, error: BaseException) -> Outcome:
        """Return a retry where the skill's policy allows one, else the failure."""
        if isinstance(error, HandlerExitError):
            error = error.__cause__ or error
        code, message = failure_of(error)
        policy, retries = skill.spec.retry, attempt.lease.retries
        if isinstance(error, Exception) and policy.applies_to(error, retries):
            delay = retry_delay(policy, error, retries + 1, self._jitter)
            return Retry(delay, message, error)
        return Failed(code, message, error)


@contextmanager
def _session_is_own(attempt: Attempt, capabilities: Capabilities) -> Iterator[None]:
    """Note for what the handler calls which session it executes in."""
    token = own_session.set(session_of(attempt, capabilities.ledger))
    try:
        yield
    finally:
        own_session.reset(token)
