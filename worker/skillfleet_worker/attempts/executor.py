"""The way of one message: claim, execute, settle."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, assert_never

import orjson
from pydantic import BaseModel

from skillfleet.auth import auth_from_claims
from skillfleet.contracts import ReasonCode, RunState
from skillfleet.errors import (
    FleetUnavailableError,
    ResultTooLargeError,
    SkillfleetError,
    UnauthorizedError,
    UnknownRunError,
)
from skillfleet.failures import error_code, error_text, failure_of, is_cancellation, leaves
from skillfleet.retry import retry_delay
from skillfleet.skills.skill import Skill
from skillfleet.skills.spec import SkillSpec
from skillfleet_engine.loop import bridge
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.celery_format import End
from skillfleet_ledger.redis_client.connection import RETRY_SECONDS
from skillfleet_ledger.runs.records import Invocation
from skillfleet_ledger.runs.store import Claim, ClaimStatus, Declared, Write
from skillfleet_producer.message import headers
from skillfleet_telemetry.logs import begin_run
from skillfleet_telemetry.metrics import DUPLICATES, RUNS, record
from skillfleet_worker.attempts.admission import Admission, ForeignMessageError
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.context import Capabilities, FleetRunContext
from skillfleet_worker.attempts.delivery import Delivery, read_delivery
from skillfleet_worker.attempts.event_buffer import EventBuffer, EventBufferHooks
from skillfleet_worker.attempts.messages import adopt
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Released,
    Retry,
    Succeeded,
    TimedOut,
    goes_on,
    internal_error,
    shortened,
    timed_out,
)
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.requeue import release
from skillfleet_worker.attempts.spans import Telling
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest
from skillfleet_worker.attempts.supervision import HandlerEnd, HandlerExitError, supervise
from skillfleet_worker.attempts.telemetry import ending_of, facts_of

logger = logging.getLogger(__name__)

_SETTLE_SECONDS = 300.0
_RECALL_SECONDS = 0.1
_JOIN_SECONDS = 30.0
_CALLER_ENDED = StopRequest(
    StopKind.CANCELLED, "the calling run has ended", ReasonCode.PARENT_ENDED
)
_CALLER_GOES_ON = StopRequest(StopKind.RELEASED, "its caller is over")


class Served(NamedTuple):
    """What executes the runs of a skill, and the model of those who call it."""

    skill: Skill[..., Any]
    auth_model: type[BaseModel]


class Executor:
    """Runs deliveries of one process. `served` are the skills that the process can execute."""

    def __init__(
        self,
        process: WorkerProcess,
        capabilities: Capabilities,
        admission: Admission,
        served: Mapping[str, Served],
    ) -> None:
        self.process = process
        self._capabilities = capabilities
        self._admission = admission
        self._served = served
        self._claims = itertools.count(1)

    async def run(
        self, skill: Skill[..., Any], auth_model: Any, delivery: Delivery
    ) -> Outcome | Claim:
        """Take a delivery to its outcome; the claim is returned when it gave no lease.

        Whoever may not call gets no attempt. On the loop the handler is to run on. Raises
        FleetUnavailableError when the run could not be claimed: nothing happened then.
        """
        admitted = await bridge.at_home(self._admit(delivery))
        if not isinstance(admitted, Delivery):
            return admitted
        delivery = admitted
        renewed_at, began_ns = self.process.loop_time(), time.time_ns()
        claim = await bridge.at_home(self._claim(skill.spec, delivery))
        if claim.lease is None:
            record(DUPLICATES, 1, claim.status)
            return claim
        if self.process.loop_time() - renewed_at >= self.process.settings.lease_seconds:
            # This process stood still, or Redis did: by now another may execute the run.
            return Lost()
        attempt = Attempt(claim.lease, delivery, renewed_at, self.run_queued)
        self.process.begin(attempt)
        try:
            with Telling(facts_of(attempt), began_ns) as telling:
                return await self._carry_out(skill, auth_model, attempt, telling)
        finally:
            self.process.end(attempt)

    async def _carry_out(
        self, skill: Skill[..., Any], auth_model: Any, attempt: Attempt, telling: Telling
    ) -> Outcome:
        """Execute an attempt and write its end, whatever happens on the way."""
        outbox = self._outbox(attempt)
        try:
            outcome = await self._execute(skill, auth_model, attempt, outbox)
        except Exception as error:
            logger.exception("run %s: its handler could not be executed", attempt.run_id)
            outcome = internal_error("the handler could not be executed", error)
        attempt.end()
        self._stop_lent(attempt, outcome)
        with _harmless(attempt):
            telling.executed(ending_of(attempt, outcome))
        outcome = await bridge.at_home(self._settle(attempt, outbox, outcome))
        await self._join_lent(attempt, outcome)
        with _harmless(attempt):
            telling.settled(ending_of(attempt, outcome), outbox.flushed_ns)
        return outcome

    async def run_queued(self, run_id: str) -> None:
        """Execute a run that is still queued, without its message; its outcome is in the ledger.

        Does nothing for a run in another state, or of a skill that this process does not serve.
        Its message finds the run taken, or ended. Concurrency and errors as `run`.
        """
        record = await bridge.at_home(self._queued(run_id))
        served = self._served.get(record.task) if record is not None else None
        if record is None or served is None or self.process.draining:
            return
        begin_run(run_id, record.task)
        request = {**headers(record), "delivery_info": {"routing_key": record.queue}}
        limit = self.process.settings.max_arguments_bytes
        arguments = orjson.loads(record.args)
        delivery = read_delivery(record.task, request, (), arguments, (), limit)
        await self.run(served.skill, served.auth_model, delivery)

    def _stop_lent(self, attempt: Attempt, outcome: Outcome) -> None:
        """Stop what is executed in the attempt's slot: its caller is over, and waits for nothing.

        A caller with a further attempt calls it again: then it goes back to the queue.
        """
        stop = _CALLER_GOES_ON if goes_on(outcome) else _CALLER_ENDED
        for lent in self._lent(attempt):
            lent.request_stop(stop)

    async def _join_lent(self, attempt: Attempt, outcome: Outcome) -> None:
        """Wait until what the attempt's slot executes has ended, or leave it to the reaper."""
        settings = self.process.settings
        patience = settings.cancel_grace_seconds + settings.abandon_seconds + _JOIN_SECONDS
        give_up_at = time.monotonic() + patience
        while attempt.inline_runs and time.monotonic() < give_up_at:
            # Again: one that was being claimed was no attempt yet.
            self._stop_lent(attempt, outcome)
            await asyncio.wait(set(attempt.inline_runs), timeout=_RECALL_SECONDS)
        for left in self._lent(attempt):
            logger.error("run %s does not stop and is left to the reaper", left.run_id)
            left.lose()
            self.process.end(left)

    def _lent(self, attempt: Attempt) -> list[Attempt]:
        """The attempts that are executed in this one's slot."""
        found = (self.process.attempts.get(run_id) for run_id in attempt.inline_runs.values())
        return [lent for lent in found if lent is not None and lent.loop is attempt.loop]

    async def _queued(self, run_id: str) -> Invocation | None:
        runs = self.process.runs
        try:
            state, _ = await runs.state(run_id)
        except UnknownRunError:
            return None
        return await runs.invocation(run_id) if state is RunState.QUEUED else None

    async def _admit(self, delivery: Delivery) -> Delivery | Outcome | Claim:
        """The delivery of a caller who may call; else what becomes of it without an attempt."""
        try:
            return await self._admission.admit(delivery)
        except ForeignMessageError:
            logger.warning("run %s: a message that is not its own was dropped", delivery.run_id)
            return Released("a message that is not its own was dropped")
        except UnauthorizedError as error:
            logger.warning("run %s is refused: %s", delivery.run_id, error)
            adoption = delivery.adoption(self.process.settings)
            if adoption is not None:
                await adopt(self.process.ledger, adoption)
            end = End(RunState.FAILED, error.code, str(error))
            if await self.process.runs.close(delivery.run_id, delivery.task, end) == "ended":
                return Claim(ClaimStatus.ENDED, 0)
            record(RUNS, 1, delivery.task, RunState.FAILED)
            return Failed(error.code, str(error), error)

    async def _claim(self, spec: SkillSpec, delivery: Delivery) -> Claim:
        runs, settings = self.process.runs, self.process.settings
        claim = await runs.claim(
            delivery.run_id,
            self.process.name,
            self._new_claim(),
            settings.lease_ms,
            delivery.adoption(settings),
            Declared(int((spec.timeout or 0) * 1000), spec.max_deliveries or 0),
        )
        if claim.status is ClaimStatus.CANCELLED:
            code = claim.code or ReasonCode.CANCELLED_BY_CALLER
            end = End(RunState.CANCELLED, code, claim.detail)
            await runs.close(delivery.run_id, delivery.task, end, claim.token)
        elif claim.status is ClaimStatus.OVERDUE:
            header = delivery.header
            overdue = timed_out(header, header.deadline_ms if header else None)
            end = End(RunState.TIMED_OUT, overdue.code, overdue.message)
            await runs.close(delivery.run_id, delivery.task, end, claim.token)
        return claim

    def _new_claim(self) -> str:
        """The name of a claim: no other delivery's, in no process."""
        return f"{self.process.name}-{next(self._claims)}"

    def _outbox(self, attempt: Attempt) -> EventBuffer:
        settings = self.process.settings
        return EventBuffer(
            self.process.ledger.streams,
            attempt.lease,
            EventBufferHooks(attempt.lose, attempt.cancel),
            flush_seconds=settings.flush_seconds,
            patience_seconds=settings.events_patience_seconds,
        )

    async def _execute(
        self, skill: Skill[..., Any], auth_model: Any, attempt: Attempt, outbox: EventBuffer
    ) -> Outcome:
        """Run the handler under supervision and judge how it ended."""
        delivery, spec = attempt.delivery, skill.spec
        try:
            if delivery.problem is not None:
                raise delivery.problem
            skill.check(delivery.arguments)
            bound = skill.bind(delivery.arguments)
            auth = auth_from_claims(auth_model, delivery.auth)
            ctx = FleetRunContext(attempt, outbox, auth, spec.secrets, self._capabilities)
            ctx.require_scopes(spec.scopes)
        except SkillfleetError as error:
            return Failed(error_code(error), error_text(error), error)
        ended = await supervise(skill(ctx, **bound), attempt, self.process.settings)
        outcome = self._judge(skill, attempt, ended) if isinstance(ended, HandlerEnd) else ended
        try:
            return shortened(await ctx.finish(outcome))
        except Exception as error:
            logger.exception("run %s: its outcome could not be prepared", attempt.run_id)
            # Not the error's own text: it may hold a secret.
            return Failed(
                ReasonCode.INTERNAL_ERROR,
                f"the outcome could not be prepared: {type(error).__name__}",
            )

    def _judge(self, skill: Skill[..., Any], attempt: Attempt, ended: HandlerEnd) -> Outcome:
        """What the handler's end means for the run."""
        try:
            if ended.error is None:
                return self._returned(skill, ended.value)
            return self._raised(skill, attempt, ended.error)
        except Exception as error:
            logger.exception("run %s: the end of its handler could not be judged", attempt.run_id)
            return internal_error("the end of the handler could not be judged", error)

    def _returned(self, skill: Skill[..., Any], value: Any) -> Outcome:
        try:
            return Succeeded(self._dump(skill, value))
        except SkillfleetError as problem:
            return Failed(error_code(problem), error_text(problem), problem)

    def _raised(self, skill: Skill[..., Any], attempt: Attempt, error: BaseException) -> Outcome:
        if any(isinstance(leaf, LeaseLostError) for leaf in leaves(error)):
            return Lost()
        if attempt.is_overdue(error):
            return attempt.timed_out()
        if isinstance(error, asyncio.CancelledError):
            message = "the handler raised CancelledError, though nobody cancelled the run"
            return Failed(ReasonCode.SKILL_ERROR, message)
        if is_cancellation(error):
            return Cancelled(attempt.cancel_reason or failure_of(error).message)
        return self._failed(skill, attempt, error)

    def _dump(self, skill: Skill[..., Any], value: Any) -> Any:
        dumped = skill.dump(value)
        limit = self.process.settings.max_result_bytes
        size = len(orjson.dumps(dumped, option=orjson.OPT_NON_STR_KEYS))
        if size > limit:
            raise ResultTooLargeError(
                f"the result of {skill.spec.task_name} is {size} bytes, the limit is {limit}"
                " (SKILLFLEET_MAX_RESULT_BYTES): write it as an artifact"
            )
        return dumped

    def _failed(self, skill: Skill[..., Any], attempt: Attempt, error: BaseException) -> Outcome:
        if isinstance(error, HandlerExitError):
            error = error.__cause__ or error
        code, message = failure_of(error)
        policy, retries = skill.spec.retry, attempt.lease.retries
        if isinstance(error, Exception) and policy.applies_to(error, retries):
            delay = retry_delay(policy, error, retries + 1, self.process.random.random)
            return Retry(delay, message, error)
        return Failed(code, message, error)

    async def _settle(self, attempt: Attempt, outbox: EventBuffer, outcome: Outcome) -> Outcome:
        """Write the outcome, under the lease; Lost when it is gone by then."""
        if isinstance(outcome, Lost) or _is_lost(attempt):
            outbox.close()
            return Lost()
        try:
            written = await self._write(attempt, outbox, outcome)
        finally:
            outbox.close()
        if written is Write.LOST:
            return Lost()
        await self._tidy(attempt, outcome)
        return outcome

    async def _write(self, attempt: Attempt, outbox: EventBuffer, outcome: Outcome) -> Write:
        give_up_at = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < give_up_at:
            try:
                await outbox.flush()
                if _is_lost(attempt):
                    return Write.LOST
                written = await self._write_once(attempt, outbox.seq, outcome)
                if written is not Write.GAP:
                    return written
                # Redis came back with less than it had: the run ends after what is left.
                _, seq = await self.process.runs.state(attempt.run_id)
                outbox.resume_behind(seq)
            except UnknownRunError:
                return Write.LOST
            except FleetUnavailableError:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - the run ends all the same
                outcome = _writable(attempt, outcome, error)
                outbox.close()
        logger.critical("run %s could not be settled: Redis is out of reach", attempt.run_id)
        return Write.LOST

    async def _write_once(self, attempt: Attempt, seq: int, outcome: Outcome) -> Write:
        runs, lease, task = self.process.runs, attempt.lease, attempt.delivery.task
        match outcome:
            case Succeeded(value):
                end = End(RunState.SUCCEEDED, ReasonCode.COMPLETED, "", value)
            case Failed(code, message):
                end = End(RunState.FAILED, code, message)
            case Cancelled(reason, code):
                end = await self._cancelled(lease.run_id, reason, code)
            case TimedOut(message, code):
                end = End(RunState.TIMED_OUT, code, message)
            case Retry(delay, message):
                delay_ms = max(int(delay * 1000), 1)
                return await runs.requeue(
                    lease, seq, outcome="retry", reason=message, delay_ms=delay_ms
                )
            case Released(reason):
                process = self.process
                return await release(process.ledger, process.publisher, lease, seq, reason)
            case Lost():
                return Write.LOST
            case _:
                assert_never(outcome)
        return await runs.settle(lease, task, seq, end)

    async def _cancelled(self, run_id: str, reason: str, code: str) -> End:
        """The end as whoever asked for it has put it, where the record knows."""
        asked = await self.process.runs.invocation(run_id)
        if asked is not None and asked.cancel_reason is not None:
            return End(RunState.CANCELLED, asked.cancel_code or code, asked.cancel_reason)
        return End(RunState.CANCELLED, code, reason)

    async def _tidy(self, attempt: Attempt, outcome: Outcome) -> None:
        """After the end of a run: end the runs that it called, too."""
        try:
            if not goes_on(outcome) and (attempt.open_calls or attempt.lease.attempt > 1):
                await self.process.runs.cancel_children(attempt.run_id, "the calling run has ended")
        except FleetUnavailableError as error:
            logger.warning("run %s: left to the reaper: %s", attempt.run_id, error)


def _writable(attempt: Attempt, outcome: Outcome, error: Exception) -> Outcome:
    """Another outcome in place of one that cannot be written; raises when that fails, too."""
    if isinstance(outcome, Failed) and outcome.code == ReasonCode.INTERNAL_ERROR:
        raise error
    if isinstance(error, SkillfleetError):
        # Its events could not be written: a success would lack them, any other end stands.
        lacking = isinstance(outcome, Succeeded)
        return Failed(error_code(error), error_text(error), error) if lacking else outcome
    logger.error("run %s: its end could not be written", attempt.run_id, exc_info=error)
    message = getattr(outcome, "message", "")
    told = f" ({message})" if isinstance(message, str) and message else ""
    return internal_error(f"the end of the run could not be written{told}", error)


@contextlib.contextmanager
def _harmless(attempt: Attempt) -> Iterator[None]:
    """Inside, what fails is logged: telemetry never decides how an attempt ends."""
    try:
        yield
    except Exception:
        logger.exception("run %s: its telemetry failed", attempt.run_id)


def _is_lost(attempt: Attempt) -> bool:
    return attempt.stop is not None and attempt.stop.kind is StopKind.LOST
