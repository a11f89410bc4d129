"""Supervision: runs a handler until it ends or must stop, and cancels it if it has to."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Any, NamedTuple

from skillfleet_engine.loop.forks import ForkGuard
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.outcomes import Outcome
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_CANCEL_TRIES = 3


class HandlerEnd(NamedTuple):
    """The end of a handler that ended by itself: with a value, or with an error."""

    value: Any = None
    error: BaseException | None = None


async def supervise(
    handler: Coroutine[Any, Any, Any],
    attempt: Attempt,
    settings: WorkerSettings,
) -> HandlerEnd | Outcome:
    """Run the handler until it ends, must stop, or the attempt's deadline passes.

    Returns how the handler ended by itself, or the outcome of the request to stop. A handler that
    resists its cancellation is abandoned, with a line in the log.
    """
    task = attempt.start(_contained(handler, attempt))
    try:
        stop = await _until(task, attempt)
        if stop is not None and stop.kind is StopKind.CANCELLED:
            await asyncio.wait({task}, timeout=settings.cancel_grace_seconds)
            if _has_returned(task):
                return _end_of(task)
    except asyncio.CancelledError:
        # Celery's pool cancelled this task (a cold shutdown): release the run at once.
        attempt.request_stop(StopRequest(StopKind.RELEASED, "the worker was stopped"))
        stop = attempt.stop
    if stop is None:
        return _end_of(task)
    await _cancel(task, handler, attempt, settings.abandon_seconds)
    return (attempt.stop or stop).outcome()


def _has_returned(task: "asyncio.Task[Any]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _end_of(task: "asyncio.Task[Any]") -> HandlerEnd:
    if task.cancelled():
        return HandlerEnd(error=asyncio.CancelledError())
    error = task.exception()
    return HandlerEnd(error=error) if error is not None else HandlerEnd(task.result())


async def _contained(handler: Coroutine[Any, Any, Any], attempt: Attempt) -> Any:
    """Await the handler; an exit that it requests ends its run only, not the process."""
    try:
        value = await ForkGuard(handler)
    except (SystemExit, KeyboardInterrupt) as error:
        # asyncio raises these from the event loop itself, which would end all other runs.
        raise HandlerExitError from error
    await attempt.prepare_record()
    return value


class HandlerExitError(BaseException):
    """Raised when a handler calls `sys.exit()`. A BaseException: retry policies never match it."""


async def _until(task: "asyncio.Task[Any]", attempt: Attempt) -> StopRequest | None:
    """Wait for the handler; return the request that stops it, None when it ended by itself."""
    while not (task.done() or attempt.stop is not None or _is_overdue(attempt)):
        await _first_of(task, attempt)
    if attempt.stop is not None:
        ended_by_itself = _has_returned(task) and attempt.has_lease
        return None if ended_by_itself else attempt.stop
    return None if task.done() else attempt.deadline_request()


def _is_overdue(attempt: Attempt) -> bool:
    deadline = attempt.deadline
    return deadline is not None and time.monotonic() >= deadline


async def _first_of(task: "asyncio.Task[Any]", attempt: Attempt) -> None:
    """Return when the handler ends, has to stop, reaches its deadline, or begins or ends to wait.

    A wait moves the deadline.
    """
    loop = attempt.loop
    happened = loop.create_future()

    def wake(*_: Any) -> None:
        if not happened.done():
            happened.set_result(None)

    def moved() -> None:
        if attempt.deadline != deadline:
            wake()

    timer, deadline = None, attempt.deadline
    if deadline is not None:
        timer = loop.call_later(max(deadline - time.monotonic(), 0), wake)
    task.add_done_callback(wake)
    try:
        moves = attempt.waiting.listening(moved) if attempt.clock.stands_in_waits else nullcontext()
        with attempt.listening(wake), moves:
            if attempt.stop is None:
                await happened
    finally:
        task.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


async def _cancel(
    task: "asyncio.Task[Any]",
    handler: Coroutine[Any, Any, Any],
    attempt: Attempt,
    patience: float,
) -> None:
    for _ in range(_CANCEL_TRIES):
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=patience / _CANCEL_TRIES)
    if not task.done():
        frame = getattr(handler, "cr_frame", None)
        stack = f"\n  {frame}" if frame is not None else ""
        logger.error("run %s resists its cancellation and is abandoned:%s", attempt.run_id, stack)
    elif not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("run %s raised %r while it was stopped", attempt.run_id, error)
