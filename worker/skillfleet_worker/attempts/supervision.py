"""Running a handler until it ends or must stop: cooperative first, then by cancelling its task."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

from skillfleet_engine.loop.forks import ForkGuard
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.outcomes import Outcome
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_CANCEL_TRIES = 3


class HandlerEnd(NamedTuple):
    """How a handler ended by itself: with a value, or with an error."""

    value: Any = None
    error: BaseException | None = None


async def supervise(
    handler: Coroutine[Any, Any, Any],
    attempt: Attempt,
    settings: WorkerSettings,
) -> HandlerEnd | Outcome:
    """Run the handler until it ends, must stop, or the attempt's deadline passes.

    Returns how the handler ended when it did so by itself, and the outcome of the order when it
    had to stop. A handler that resists its cancellation is left behind, with a report.
    """
    task = attempt.start(_contained(handler))
    try:
        stop = await _until(task, attempt)
        if stop is not None and stop.kind is StopKind.CANCELLED:
            await asyncio.wait({task}, timeout=settings.cancel_grace_seconds)
            if _has_returned(task):
                return _end_of(task)
    except asyncio.CancelledError:
        # Celery's pool gave this task up (a cold shutdown): hand the run back at once.
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


async def _contained(handler: Coroutine[Any, Any, Any]) -> Any:
    """Await the handler; what would end the whole process ends its run only."""
    try:
        return await ForkGuard(handler)
    except (SystemExit, KeyboardInterrupt) as error:
        # Out of a task, asyncio would raise them from the loop itself, through all other runs.
        raise HandlerExitError from error


class HandlerExitError(BaseException):
    """The handler wanted to end the process; no Exception, so that no run is retried for it."""


async def _until(task: "asyncio.Task[Any]", attempt: Attempt) -> StopRequest | None:
    """The order that ends the handler's time; None when it ended by itself."""
    await _first_of(task, attempt)
    if attempt.stop is not None:
        ended_by_itself = _has_returned(task) and attempt.stop.kind is not StopKind.LOST
        return None if ended_by_itself else attempt.stop
    return None if task.done() else attempt.deadline_request()


async def _first_of(task: "asyncio.Task[Any]", attempt: Attempt) -> None:
    """Return when the handler ended, was ordered to stop, or is out of time."""
    loop = attempt.loop
    happened = loop.create_future()

    def wake(*_: Any) -> None:
        if not happened.done():
            happened.set_result(None)

    timer = None
    if attempt.deadline is not None:
        timer = loop.call_later(max(attempt.deadline - time.monotonic(), 0), wake)
    task.add_done_callback(wake)
    try:
        with attempt.listening(wake):
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
        logger.error("run %s resists its cancellation and is left behind:%s", attempt.run_id, stack)
    elif not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("run %s ended its stop with %r", attempt.run_id, error)
