"""One task's execution in `LoopPool`: Celery's tracer in a greenlet, time limits, endings."""

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

current_job: ContextVar["Job | None"] = ContextVar("current_job", default=None)


class Call(NamedTuple):
    """What Celery's worker hands to a pool for one task; limits are in seconds."""

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
    """Why a job was ended before its handler had returned."""

    TERMINATED = "terminated"  # revoked with terminate, or cancelled by Celery
    TIMED_OUT = "timed out"  # the hard time limit; Celery was told when it was reached
    ABANDONED = "abandoned"  # the worker stops at once; the message stays unacknowledged


class JobStopped(BaseException):
    """Leaves Celery's tracer without an outcome: the stop_reason already has its own."""


class Slots(Protocol):
    """What a job needs of its pool."""

    def spawn(self, function: Callable[[], Any]) -> Any:
        """Run synchronous code in a greenlet on the loop."""

    def release_slot(self, job: "Job") -> None:
        """Give the job's slot back."""

    def retake_slot(self, job: "Job") -> None:
        """Take a slot again."""


@dataclass(eq=False)
class Job:
    """All methods belong to the loop's thread, except `end`."""

    call: Call
    pid: int
    loop: asyncio.AbstractEventLoop
    slots: Slots
    stop_reason: StopReason | None = None
    greenlet: Driven | None = None
    released: int = 0
    owner: Owner = field(init=False)
    _task: "asyncio.Task[None] | None" = None
    _cancel_is_due: bool = False
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
        """True while the task's own code runs, and does not wait (any thread may ask)."""
        # A greenlet that was switched away from keeps its frame for later.
        return bool(self.greenlet) and self.greenlet is not None and self.greenlet.gr_frame is None

    def here(self) -> bool:
        """True in the greenlet of this job, outside of its handler."""
        return getcurrent() is self.greenlet and not self._in_handler

    def terminate(self, signum: int) -> None:
        """Celery's ApplyResult has this; the pool's `terminate_job` has done it."""

    def end(self, stop_reason: StopReason) -> None:
        """Cancel the handler if it runs, or as soon as it starts. Any thread."""
        if self.stop_reason is None:
            self.stop_reason = stop_reason
            self.loop.call_soon_threadsafe(self._cancel)

    async def run(self) -> None:
        """Execute the task to its end; the asyncio task that awaits this is the job's."""
        self._task = asyncio.current_task()
        current_job.set(self)
        current_owner.set(self.owner)
        try:
            await self._execute()
        finally:
            # The task's context holds the job: a circle that would keep all of the message until
            # the next full collection.
            self._task = None

    async def _execute(self) -> None:
        await in_greenlet(self._trace, self._started)

    def handle(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await the handler's coroutine, under the time limits; in the job's greenlet.

        Raises:
            JobStopped: the job was ended meanwhile, whatever the handler made of it.
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
        """Tell Celery's request that the task ended with an error which the tracer did not see."""
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
            self._tell_timeout(seconds, soft=True)

    def _hard_limit(self, seconds: float) -> None:
        if self.stop_reason is None:
            self.end(StopReason.TIMED_OUT)
            self._tell_timeout(seconds, soft=False)

    def _tell_timeout(self, seconds: float, *, soft: bool) -> None:
        callback = self.call.timeout_callback
        if callback is not None:
            # In a greenlet: it stores the outcome and calls the user's hooks, which may wait.
            self.slots.spawn(lambda: callback(soft, seconds))

    def _cancel(self) -> None:
        if self._in_handler and self._task is not None:
            self._task.cancel()

    def _absorb_cancellation(self) -> None:
        """Take a cancellation that came too late for the handler, before the tracer meets it."""
        if self._task is not None and self._task.cancelling():
            await_here(_absorbed(self._task))


@dataclass(eq=False, kw_only=True)
class DirectJob(Job):
    """Work that settles its task by itself, without Celery's tracer around it.

    `work` gets the job's pseudo process id and returns True when nothing is left to do. Else, and
    when the job was ended meanwhile, Celery's tracer tells the outcome, by `call`.
    """

    work: Callable[[int], Coroutine[Any, Any, bool]]

    @property
    def is_executing(self) -> bool:
        """True while the work's own code runs, and does not wait (any thread may ask)."""
        if self._in_handler:
            return self._task is not None and asyncio.current_task(self.loop) is self._task
        return super().is_executing

    async def _execute(self) -> None:
        if self.stop_reason is not None or not await self._worked():
            await super()._execute()

    async def _worked(self) -> bool:
        self._in_handler = True
        try:
            return await self.work(self.pid)
        except asyncio.CancelledError:
            if self.stop_reason is None:
                raise
            return False
        finally:
            self._in_handler = False
            if self._task is not None and self._task.cancelling():
                await _absorbed(self._task)


async def _absorbed(task: "asyncio.Task[Any]") -> None:
    """Take a cancellation of the task that awaits this, and forget it."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.cancelling():
        task.uncancel()
