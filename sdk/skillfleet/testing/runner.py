"""The runner: runs a skill in this process under the fleet's rules."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from skillfleet.contracts import ReasonCode
from skillfleet.durable.journal import journal_of, mismatch
from skillfleet.errors import (
    BudgetExhaustedError,
    CancelledByCaller,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
    SkillError,
)
from skillfleet.failures import failure_of, is_cancellation, is_overdue
from skillfleet.retry import retry_delay
from skillfleet.skills.skill import Skill
from skillfleet.testing.local_context import LocalRunContext
from skillfleet.testing.local_store import AttemptLostError
from skillfleet.texts import shortened_text
from skillfleet.validation import check_result_size

logger = logging.getLogger(__name__)


async def run_skill(
    skill: Skill[..., Any],
    ctx: LocalRunContext[Any],
    arguments: Mapping[str, Any] | None = None,
    *,
    grace: float = 1.0,
) -> Any:
    """Run a skill as a worker does, and return its result as plain JSON values.

    Checks the JSON `arguments` and the caller's scopes, runs the skill in its own task until
    `ctx.deadline` or its timeout (which shortens `ctx.deadline`, as the budget's time does), and
    validates the result. After `ctx.cancel()` the skill has `grace` seconds to end
    by itself, then its task is cancelled; it is cancelled at once when it has used up a budget
    of tokens, and after `ctx.lose()`. A run that is cancelled or overdue before its start does not
    start.

    Raises `MissingScopes`, `InvalidArgumentsError`, `InvalidResultError`, `ResultTooLargeError`,
    `CancelledByCaller`, `RunTimedOut`, `BudgetExhaustedError`, `AttemptLostError`, or what the
    skill raises.
    Cancelling the awaiting task cancels the skill. A skill that suppresses its cancellation is
    abandoned `grace` seconds later. The run's cleanups (`RunScope.defer`) run at its end,
    however it ends. What it has saved for its session is written then.
    """
    try:
        result = await _run_attempt(skill, ctx, arguments, grace)
    except AttemptLostError:
        raise
    except BaseException:
        ctx.settle_session(succeeded=False)
        raise
    ctx.settle_session(succeeded=True)
    return result


async def _run_attempt(
    skill: Skill[..., Any],
    ctx: LocalRunContext[Any],
    arguments: Mapping[str, Any] | None,
    grace: float,
) -> Any:
    """Run one attempt like `run_skill`, and leave the session's state as it was."""
    bound = skill.check_and_bind(arguments or {})
    ctx.require_scopes(skill.spec.scopes)
    ctx.budget_tracker.begin()
    ends = [end for end in (ctx.deadline, ctx.budget_tracker.ends) if end is not None]
    ctx.deadline = earlier(min(ends, default=None), skill.spec.timeout)
    await ctx.check_cancelled()
    _check_deadline(ctx)
    ctx.begin_attempt(durable=skill.spec.durable, workspace=skill.spec.workspace)
    task = asyncio.ensure_future(skill(ctx, **bound))
    try:
        await _wait(task, ctx, grace)
        ended = task.done()
    finally:
        ctx.end_attempt()
        await _stop(task, grace)
        await ctx.aclose()
    if ctx.lost:
        raise AttemptLostError("the worker was lost")
    if ctx.overspent and (not ended or task.cancelled() or task.exception() is not None):
        raise BudgetExhaustedError("the tree's budget of tokens is used up")
    if not ended:
        await ctx.check_cancelled()
        raise _overdue(ctx)
    if task.cancelled():
        raise SkillError("the skill raised asyncio.CancelledError without being cancelled")
    if (error := task.exception()) is not None:
        await _check_ended(error, ctx)
    await _report_unused(ctx)
    result = skill.dump(task.result())
    check_result_size(skill.spec.task_name, result, ctx.limits.result_bytes)
    return ctx.redacted(result)


async def run_to_end(
    skill: Skill[..., Any],
    ctx: LocalRunContext[Any],
    arguments: Mapping[str, Any] | None = None,
    *,
    grace: float = 1.0,
) -> Any:
    """Run a skill like `run_skill`, with as many attempts as it allows (`ctx.attempt` counts).

    Each attempt finds what the ones before have recorded. Raises the errors that the caller of a
    run gets: `RunFailed`, `RunCancelled`, `RunTimedOut`.
    """
    retries = ctx.attempt - 1
    while True:
        try:
            result = await _run_attempt(skill, ctx, arguments, grace)
        except AttemptLostError:
            ctx.attempt += 1
            continue
        except (Exception, BaseExceptionGroup) as error:
            if _is_overdue(error, ctx) or not skill.spec.retry.applies_to(error, retries):
                ctx.settle_session(succeeded=False)
                raise _run_error(error, ctx) from error
            retries += 1
            delay = retry_delay(skill.spec.retry, error, retries, random.random)
            ctx.journal.drop(journal_of(ctx).failures_in(error))
        else:
            ctx.settle_session(succeeded=True)
            return result
        await _pause(ctx, delay)
        ctx.attempt += 1


def earlier(deadline: datetime | None, seconds: float | None) -> datetime | None:
    """Return the earlier of `deadline` and `seconds` from now; None means no limit."""
    if seconds is None:
        return deadline
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return end if deadline is None else min(deadline, end)


async def _wait(task: asyncio.Future[Any], ctx: LocalRunContext[Any], grace: float) -> None:
    """Wait until the task has ended or must be stopped."""
    watcher = asyncio.ensure_future(ctx.wait_stopped())
    try:
        await asyncio.wait(
            {task, watcher}, timeout=_remaining(ctx), return_when=asyncio.FIRST_COMPLETED
        )
        if watcher.done() and not task.done() and not (ctx.overspent or ctx.lost):
            await asyncio.wait({task}, timeout=grace)
    finally:
        watcher.cancel()


async def _stop(task: asyncio.Future[Any], grace: float) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=grace)


def _remaining(ctx: LocalRunContext[Any]) -> float | None:
    return None if ctx.deadline is None else (ctx.deadline - datetime.now(UTC)).total_seconds()


def _check_deadline(ctx: LocalRunContext[Any]) -> None:
    remaining = _remaining(ctx)
    if remaining is not None and remaining <= 0:
        raise _overdue(ctx)


async def _check_ended(error: BaseException, ctx: LocalRunContext[Any]) -> None:
    """Raise the reason for the run's end, where it is not the handler's own error."""
    if not is_cancellation(error):
        try:
            await ctx.check_cancelled()
        except CancelledByCaller as cancelled:
            raise cancelled from error
        if is_overdue(error, ctx.deadline, _remaining(ctx)):
            raise _overdue(ctx) from error


async def _report_unused(ctx: LocalRunContext[Any]) -> None:
    """Report what the handler did not ask for although an earlier attempt recorded it."""
    message = mismatch(await journal_of(ctx).unused())
    if message is not None:
        logger.warning("run %s: %s", ctx.task_id, message)
        await ctx.emit_error(message, code=ReasonCode.JOURNAL_MISMATCH)


def _overdue(ctx: LocalRunContext[Any]) -> RunTimedOut:
    if ctx.deadline is not None and ctx.deadline == ctx.budget_tracker.ends:
        message, code = "the tree's budget of time is used up", ReasonCode.BUDGET_EXHAUSTED
    else:
        message, code = "the run's deadline passed", ReasonCode.DEADLINE_EXCEEDED
    return RunTimedOut(message, code=code, run_id=ctx.task_id, deadline=ctx.deadline)


def _is_overdue(error: BaseException, ctx: LocalRunContext[Any]) -> bool:
    return isinstance(error, RunTimedOut) and error.run_id == ctx.task_id


def _run_error(error: BaseException, ctx: LocalRunContext[Any]) -> RunError:
    """Return the error that the caller of a run receives when it ended with `error`."""
    if isinstance(error, RunTimedOut) and _is_overdue(error, ctx):
        return error
    if is_cancellation(error):
        return RunCancelled(failure_of(error).message, run_id=ctx.task_id)
    code, message = failure_of(error)
    return RunFailed(shortened_text(message), code=code, run_id=ctx.task_id)


async def _pause(ctx: LocalRunContext[Any], seconds: float) -> None:
    """Wait, at most until the end of the run."""
    end = earlier(ctx.deadline, seconds) or datetime.now(UTC)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout((end - datetime.now(UTC)).total_seconds()):
            await ctx.wait_stopped()
