"""Execution of one task in `LoopPool`: direct or in Celery's tracer, time limits, stops."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, Terminated
from celery.concurrency.base import apply_target
from celery.exceptions import WorkerShutdown, WorkerTerminate
from greenlet import getcurrent

from skillfleet_engine.loop.greenlets import Driven, await_here, in_greenlet
from skillfleet_engine.loop.interrupt import Interruptible, awaiting
from skillfleet_engine.loop.threads import Owner, current_owner

T = TypeVar("T")

Work = Callable[[int], Coroutine[Any, Any, bool]]

current_job: ContextVar["Job | None"] = ContextVar("current_job", default=None)


class Call(NamedTuple):
    """The arguments with which Celery's worker passes a task to a pool; limits in seconds."""

    target: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    callback: Callable[..., Any] | None = None
    accept_callback: Callable[..., Any] | None = None
    error_callback: Callable[..., Any] | None = None
    timeout_callback: Callable[..., Any] | None = None
    soft_timeout: float | None = None
    timeout: float | None = None
    correlation_id: str | None = None


class StopReason(Enum):
    """The reason a job was stopped before its handler returned."""

    TERMINATED = "terminated"  # revoked with terminate, or cancelled by Celery
    TIMED_OUT = "timed out"  # the hard time limit; reported to Celery when it was reached
    ABANDONED = "abandoned"  # the worker stops at once; the message stays unacknowledged


class JobStopped(BaseException):
    """Leaves Celery's tracer without an outcome: the stop has its own."""


class Slots(Protocol):
    """The part of the pool that a job uses."""

    def spawn(self, function: Callable[[], Any]) -> Any:
        """Run synchronous code in a greenlet on the loop."""

    def release_slot(self, job: "Job") -> None:
        """Release the job's slot."""

    def retake_slot(self, job: "Job") -> None:
        """Take a slot for the job again."""


@dataclass(eq=False)
class Job:
    """One task in the pool. All methods belong to the loop's thread, except `stop`.

    A job with `work` is a direct one: it needs no tracer for a plain success. `work` gets the
    job's pseudo process id and returns True when nothing is left to do. Otherwise, and for all
    other jobs, Celery's tracer executes `call` and reports the outcome.
    """

    call: Call
    pid: int
    loop: asyncio.AbstractEventLoop
    slots: Slots
    work: Work | None = None
    stop_reason: StopReason | None = None
    greenlet: Driven | None = None
    released: int = 0
    owner: Owner = field(init=False)
    _task: "asyncio.Task[None] | None" = None
    _in_handler: bool = False
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = Owner(self.id)

    @property
    def id(self) -> str | None:
        """The Celery task's id."""
        return self.call.correlation_id

    @property
    def is_executing(self) -> bool:
        """True while the job's own asyncio task or greenlet runs (any thread may ask).

        False while code runs that the job started as a separate task.
        """
        if self.greenlet is None:
            return self._in_handler and asyncio.current_task(self.loop) is self._task
        # A greenlet that was switched away from keeps its frame for later.
        return bool(self.greenlet) and self.greenlet.gr_frame is None

    def here(self) -> bool:
        """Return True in the greenlet of this job, outside of its handler."""
        return getcurrent() is self.greenlet and not self._in_handler

    def terminate(self, signum: int) -> None:
        """Do nothing: Celery's ApplyResult has this, and `terminate_job` has stopped the job."""

    def stop(self, reason: StopReason) -> None:
        """Cancel the handler if it runs, or as soon as it starts. Any thread."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self.loop.call_soon_threadsafe(self._cancel)

    async def run(self) -> None:
        """Execute the task to its end; the asyncio task that awaits this is the job's."""
        self._task = task = asyncio.current_task()
        current_job.set(self)
        current_owner.set(self.owner)
        try:
            if self.work is not None and self.stop_reason is None:
                self._in_handler = True
                try:
                    if await self.work(self.pid):
                        return
                except asyncio.CancelledError:
                    if self.stop_reason is None:
                        raise
                finally:
                    self._in_handler = False
                    if task is not None and task.cancelling():
                        await _absorbed(task)
            await in_greenlet(self._trace, self._started)
        finally:
            # The task's context references the job: a cycle that would keep the whole message
            # until the next full collection.
            self._task = None

    def handle(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await the handler's coroutine, under the time limits; in the job's greenlet.

        Raises:
            JobStopped: the job was stopped meanwhile, whatever the handler returned or raised.
        """
        if self.stop_reason is not None:
            coro.close()
            raise JobStopped(self.stop_reason)
        body = Interruptible(coro)
        self._set_limits(body)
        self._in_handler = True
        try:
            return await_here(awaiting(body))
        finally:
            self._in_handler = False
            for timer in self._timers:
                timer.cancel()
            self._absorb_cancellation()
            if self.stop_reason is not None:
                raise JobStopped(self.stop_reason)

    def _started(self, greenlet: Driven) -> None:
        self.greenlet = greenlet

    def _trace(self) -> None:
        call = self.call
        try:
            apply_target(
                call.target,
                call.args,
                call.kwargs,
                call.callback,
                call.accept_callback,
                pid=self.pid,
                propagate=(BaseException,),
            )
        except JobStopped:
            if self.stop_reason is StopReason.TERMINATED:
                self.report(Terminated("terminated"))
        except (WorkerShutdown, WorkerTerminate):
            raise
        except BaseException as exc:  # noqa: BLE001 - Celery maps SystemExit and the like
            self.report(exc)

    def report(self, error: BaseException) -> None:
        """Report an error that the tracer did not see to Celery's request."""
        try:
            raise error  # noqa: TRY301 - ExceptionInfo needs a traceback
        except BaseException:  # noqa: BLE001
            info = ExceptionInfo()
        if self.call.error_callback is not None:
            self.call.error_callback(info)

    def _set_limits(self, body: Interruptible[Any]) -> None:
        if (soft := self.call.soft_timeout) is not None:
            self._timers.append(self.loop.call_later(soft, self._soft_limit, body, soft))
        if (hard := self.call.timeout) is not None:
            self._timers.append(self.loop.call_later(hard, self._hard_limit, hard))

    def _soft_limit(self, body: Interruptible[Any], seconds: float) -> None:
        if self._task is not None and self.stop_reason is None:
            body.interrupt(self._task, SoftTimeLimitExceeded(seconds))
            self._report_timeout(seconds, soft=True)

    def _hard_limit(self, seconds: float) -> None:
        if self.stop_reason is None:
            self.stop(StopReason.TIMED_OUT)
            self._report_timeout(seconds, soft=False)

    def _report_timeout(self, seconds: float, *, soft: bool) -> None:
        callback = self.call.timeout_callback
        if callback is not None:
            # In a greenlet: it stores the outcome and calls the user's hooks, which may wait.
            self.slots.spawn(lambda: callback(soft, seconds))

    def _cancel(self) -> None:
        if self._in_handler and self._task is not None:
            self._task.cancel()

    def _absorb_cancellation(self) -> None:
        """Absorb a cancellation that came too late for the handler, before the tracer sees it."""
        if self._task is not None and self._task.cancelling():
            await_here(_absorbed(self._task))


async def _absorbed(task: "asyncio.Task[Any]") -> None:
    """Absorb a cancellation of the task that awaits this."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.cancelling():
        task.uncancel()
