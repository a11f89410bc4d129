"""An event loop and Celery's own blocking code on one thread.

Celery's worker is synchronous: its main thread starts components, polls kombu's hub, and stops
components. Here that code and an event loop share the main thread: the loop runs in a greenlet
of its own (`run_forever`, for the life of the worker), and wherever Celery's code would block it
calls `pause`, `wait` or `offload`, which let the loop run meanwhile.
"""

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from greenlet import getcurrent, greenlet

from skillfleet_engine.loop.greenlets import Driven, await_here
from skillfleet_engine.loop.interrupt import awaiting
from skillfleet_engine.loop.loops import close_loop, new_event_loop, run_until_stopped
from skillfleet_engine.loop.watchdog import LoopWatchdog

P = ParamSpec("P")
T = TypeVar("T")


class LoopHost:
    """An event loop on the thread that creates this object, shared with blocking code.

    Every method belongs to that thread, unless noted.
    """

    def __init__(self) -> None:
        self.loop = new_event_loop()
        self.thread_id = threading.get_ident()
        self.watchdog: LoopWatchdog | None = None
        self._loop_greenlet: greenlet | None = None
        self._waiting: greenlet | None = None
        self._wake_is_due = False
        self._interrupts: deque[Callable[[], object]] = deque()

    @property
    def here(self) -> bool:
        """True on the loop's thread (any thread may ask)."""
        return threading.get_ident() == self.thread_id

    @property
    def can_wait(self) -> bool:
        """False inside the loop's callbacks and inside tasks, where waiting would block the loop.

        (A task's greenlet may `wait` and `run`, but not `pause`.)
        """
        current = getcurrent()
        return self.here and current is not self._loop_greenlet and not isinstance(current, Driven)

    def watch(self, blocked_after: float, log_every: float) -> LoopWatchdog:
        """Start the loop's watchdog; times in seconds as `LoopWatchdog` takes them."""
        self.watchdog = LoopWatchdog(
            self.loop, self.thread_id, blocked_after=blocked_after, log_every=log_every
        )
        self.watchdog.start()
        return self.watchdog

    def pause(self, seconds: float) -> None:
        """Let the loop run for `seconds`, or until `wake`; for one iteration at least."""
        if seconds <= 0:
            self.wake()
            self._switch_to_loop()
            return
        timer = self.loop.call_later(seconds, self.wake)
        self._switch_to_loop()
        timer.cancel()

    def wait(self, future: "asyncio.Future[T]") -> T:
        """Let the loop run until the future is done; return its result or raise its error."""
        if isinstance(getcurrent(), Driven):
            return await_here(awaiting(future))
        future.add_done_callback(lambda _: self.wake())
        while not future.done():
            self._switch_to_loop()
        return future.result()

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine as a task of the loop; cancel it if the wait is interrupted."""
        task = self.loop.create_task(coro)
        try:
            return self.wait(task)
        except BaseException:
            task.cancel()
            raise

    def offload(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function in a thread and let the loop run until it ends.

        The thread is a daemon: one that hangs does not keep the process from ending.
        """
        future: asyncio.Future[T] = self.loop.create_future()
        context = contextvars.copy_context()

        def finish(set_outcome: Callable[[Any], None], outcome: Any) -> None:
            if not future.done():
                set_outcome(outcome)

        def work() -> None:
            try:
                result = context.run(function, *args, **kwargs)
            except BaseException as exc:  # noqa: BLE001 - raised in the waiting code
                self.loop.call_soon_threadsafe(finish, future.set_exception, exc)
            else:
                self.loop.call_soon_threadsafe(finish, future.set_result, result)

        threading.Thread(target=work, name="celery-offload", daemon=True).start()
        return self.wait(future)

    def wake(self) -> None:
        """End the present (or the next) `pause` in the loop's next iteration."""
        if not self._wake_is_due and not self.loop.is_closed():
            self._wake_is_due = True
            self.loop.call_soon(self._resume)

    def resume(self) -> None:
        """End the present `pause` at once; in a callback of the loop."""
        if not self._wake_is_due and self._waiting is not None:
            self._waiting.switch()

    def interrupt(self, function: Callable[[], object]) -> None:
        """Have Celery's code call `function` at its present (or next) wait.

        An error of the function is raised from that wait. Any thread, and signal handlers.
        """
        self._interrupts.append(function)
        self.loop.call_soon_threadsafe(self.wake)

    def unwind(self) -> None:
        """Leave `run_forever`; the loop stays open, and a later wait starts it again."""
        self.loop.call_soon(self.loop.stop)
        while self._loop_greenlet is not None and not self._loop_greenlet.dead:
            self._switch_to_loop()

    def close(self, seconds: float = 1.0) -> None:
        """Cancel what still runs, wait up to `seconds` for it, and close the loop."""
        if self.here and not self.loop.is_closed():
            self.unwind()
            close_loop(self.loop, seconds)

    def _switch_to_loop(self) -> None:
        if not self.can_wait:
            raise RuntimeError("only Celery's own code on the event loop's thread can wait for it")
        self._waiting = getcurrent()
        if self._loop_greenlet is None or self._loop_greenlet.dead:
            self._loop_greenlet = greenlet(partial(run_until_stopped, self.loop))
        else:
            asyncio._set_running_loop(self.loop)  # noqa: SLF001 - documented for hosts of loops
        try:
            self._loop_greenlet.switch()
        finally:
            # To Celery's own code this is a thread without a loop: it may call asyncio.run().
            asyncio._set_running_loop(None)  # noqa: SLF001
        while self._interrupts:
            self._interrupts.popleft()()

    def _resume(self) -> None:
        self._wake_is_due = False
        if self._waiting is not None:
            self._waiting.switch()
