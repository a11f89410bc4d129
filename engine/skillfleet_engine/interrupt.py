"""Throw an exception of one's choice into a coroutine that is waiting."""

import asyncio
import os
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

from skillfleet_engine.forks import leave_if_forked

T = TypeVar("T")


class Interruptible(Generic[T]):
    """Await this instead of a coroutine, to be able to `interrupt` it.

    The coroutine is driven within the asyncio task that awaits this object. All methods belong
    to the thread of that task's loop.
    """

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro
        self._reason: BaseException | None = None

    def interrupt(self, task: "asyncio.Task[Any]", reason: BaseException) -> None:
        """Have `reason` raised at the coroutine's present (or next) wait; `task` awaits it."""
        self._reason = reason
        # Only asyncio's own cancellation reaches the future that is waited for; on its way
        # into the coroutine `_translate` puts the reason in its place.
        task.cancel()

    def __await__(self) -> Generator[Any, Any, T]:
        pid = os.getpid()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited_for = self._coro.send(value) if error is None else self._coro.throw(error)
            except StopIteration as stop:
                leave_if_forked(pid)
                result: T = stop.value
                return result
            except BaseException as exc:
                leave_if_forked(pid, exc)
                raise
            leave_if_forked(pid)
            value = error = None
            try:
                value = yield waited_for
            except BaseException as exc:  # noqa: BLE001 - the coroutine decides about it
                error = self._translate(exc)

    def _translate(self, error: BaseException) -> BaseException:
        if self._reason is None or not isinstance(error, asyncio.CancelledError):
            return error
        reason, self._reason = self._reason, None
        if (task := asyncio.current_task()) is not None:
            # Otherwise a later asyncio.timeout() in the coroutine would believe it was cancelled.
            task.uncancel()
        return reason


async def awaiting(awaitable: "Interruptible[T] | asyncio.Future[T]") -> T:
    """A coroutine that does nothing but await; for callers that need one."""
    return await awaitable
