"""Throw an exception of one's choice into a coroutine that is waiting."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from skillfleet_engine.loop.forks import ForkGuard

T = TypeVar("T")


class Interruptible(ForkGuard[T]):
    """Await this instead of a coroutine, to be able to `interrupt` it.

    The coroutine is driven within the asyncio task that awaits this object. All methods belong
    to the thread of that task's loop.
    """

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        super().__init__(coro)
        self._reason: BaseException | None = None

    def interrupt(self, task: "asyncio.Task[Any]", reason: BaseException) -> None:
        """Have `reason` raised at the coroutine's present (or next) wait; `task` awaits it."""
        self._reason = reason
        # Only asyncio's own cancellation reaches the future that is waited for; on its way
        # into the coroutine `_translate` puts the reason in its place.
        task.cancel()

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
