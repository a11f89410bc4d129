"""Raising of any exception inside a waiting coroutine."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from skillfleet_engine.loop.forks import ForkGuard

T = TypeVar("T")


class Interruptible(ForkGuard[T]):
    """An awaitable around a coroutine that can be interrupted.

    The coroutine is driven within the asyncio task that awaits this object. All methods belong
    to the thread of that task's loop.
    """

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        super().__init__(coro)
        self._reason: BaseException | None = None

    def interrupt(self, task: "asyncio.Task[Any]", reason: BaseException) -> None:
        """Raise `reason` at the coroutine's present (or next) wait; `task` awaits this object."""
        self._reason = reason
        # Only asyncio's own cancellation reaches the awaited future; `_translate` replaces it by
        # the reason on its way into the coroutine.
        task.cancel()

    def _translate(self, error: BaseException) -> BaseException:
        if self._reason is None or not isinstance(error, asyncio.CancelledError):
            return error
        reason, self._reason = self._reason, None
        if (task := asyncio.current_task()) is not None:
            # Otherwise a later asyncio.timeout() in the coroutine would treat it as a cancellation.
            task.uncancel()
        return reason


async def awaiting(awaitable: "Interruptible[T] | asyncio.Future[T]") -> T:
    """Await an awaitable; for callers that need a coroutine."""
    return await awaitable
