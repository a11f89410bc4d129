"""Synchronous code on an event loop's thread that waits without blocking the loop.

`in_greenlet` runs a function in a greenlet of its own; wherever the function calls
`await_here`, its greenlet passes the awaited future to the asyncio task that started it, and the
loop runs until there is a result. The awaited coroutine's code runs in the greenlet too, so
that state per greenlet (Celery's `current_task` and `task.request`) is the same inside
the coroutine and around it; and both share one `contextvars` context, the task's.
"""

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class Driven(greenlet):
    """A greenlet whose waits are carried out by an asyncio task."""


def await_here(coro: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine from synchronous code that runs in a `Driven` greenlet.

    Raises the coroutine's errors, and CancelledError when the driving task is cancelled.
    """
    current = getcurrent()
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waited_for = coro.send(value) if error is None else coro.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        value = error = None
        try:
            value = driver_of(current).switch(waited_for)
        except BaseException as exc:  # noqa: BLE001 - the coroutine handles it
            error = exc


def driver_of(current: greenlet) -> greenlet:
    """Return the greenlet in which the asyncio task runs that drives this one."""
    if not isinstance(current, Driven) or current.parent is None:
        raise RuntimeError("await_here() must be called from code that in_greenlet() runs")
    return current.parent


async def in_greenlet(
    function: Callable[[], T], started: Callable[[Driven], None] | None = None
) -> T:
    """Run `function()` in a new greenlet; return its result or raise its error.

    Args:
        function: synchronous code; it may call `await_here`.
        started: called with the greenlet before it begins.
    """
    child = Driven(function)
    # Shared, not copied: what the function sets is visible in the coroutines it awaits.
    child.gr_context = getcurrent().gr_context
    if started is not None:
        started(child)
    result: T = await _drive(child)
    return result


@types.coroutine
def _drive(child: Driven) -> Generator[Any, Any, Any]:
    # The parent is set before each switch, because the loop itself runs in a greenlet that may
    # have been replaced meanwhile.
    child.parent = getcurrent()
    waited_for = child.switch()
    while not child.dead:
        try:
            value = yield waited_for
        except BaseException as exc:  # noqa: BLE001 - the function handles it
            child.parent = getcurrent()
            waited_for = child.throw(exc)
        else:
            child.parent = getcurrent()
            waited_for = child.switch(value)
    return waited_for
