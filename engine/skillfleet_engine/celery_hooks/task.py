"""A base class for Celery tasks that are `async def`, in every pool."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from celery import Task

from skillfleet_engine.celery_hooks.errors import HandlerCancelledError
from skillfleet_engine.celery_hooks.jobs import current_job
from skillfleet_engine.loop import bridge


class AsyncTask(Task):  # type: ignore[type-arg]  # generic in the stubs only
    """Base of asynchronous tasks: `@app.task(base=AsyncTask)`, or `Celery(task_cls=AsyncTask)`.

    In `LoopPool` the coroutine runs on the pool's event loop with all others; in other pools, in
    eager mode and when called directly, it runs to its end on the calling thread's own loop.
    `f(...)` therefore returns the result, not a coroutine; a coroutine that wants to await the
    function itself calls `f.run.__wrapped__(...)`.

    Functions that are not `async` work as with any Celery task; in `LoopPool` they block the loop
    while they run, and neither time limits nor termination reach them.
    """

    abstract = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        run = cls.__dict__.get("run")
        function = run.__func__ if isinstance(run, staticmethod) else run
        # `run` is wrapped and not `__call__`, so that Celery's own wrappers (autoretry_for expects
        # the exception from `run`) and the fast path of its tracer still work.
        if inspect.iscoroutinefunction(function):
            wrapped = synchronous(function)
            cls.run = staticmethod(wrapped) if isinstance(run, staticmethod) else wrapped  # type: ignore[method-assign]


def synchronous(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Return a function that runs the coroutine function to its end, as a task's `run` must."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        coro = function(*args, **kwargs)
        job = current_job.get()
        try:
            if job is not None and job.here():
                return job.handle(coro)
            return bridge.run(coro)
        except asyncio.CancelledError as exc:
            raise HandlerCancelledError(
                "the task's coroutine was cancelled from within; to stop a task from outside, "
                "revoke it with terminate=True"
            ) from exc

    return run
