"""Running attempt: its lease, its deadline, and requests to stop it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import cached_property
from typing import Any

from skillfleet.cleanups import Cleanups
from skillfleet.contracts import from_millis
from skillfleet.failures import is_overdue
from skillfleet.ports.session import SavedState
from skillfleet_ledger.runs.records import Lease
from skillfleet_worker.attempts.clock import Clock
from skillfleet_worker.attempts.delivery import Delivery
from skillfleet_worker.attempts.outcomes import TimedOut, timed_out
from skillfleet_worker.attempts.stop_request import (
    GIVES_BACK,
    WITHOUT_LEASE,
    StopKind,
    StopRequest,
)
from skillfleet_worker.attempts.waiting import Waiting

RunInline = Callable[[str], Coroutine[Any, Any, None]]
"""Executes a run that is still queued, by its id, in the slot of the attempt that called it."""


class Attempt:
    """One attempt of a run, as this process executes it. Belongs to its handler's event loop.

    `request_stop` may be called from any thread. The first request counts, except that a lost
    lease overrides those before it, and parking all others.
    """

    def __init__(
        self,
        lease: Lease,
        delivery: Delivery,
        renewed_at: float,
        run_child_inline: RunInline | None = None,
        *,
        durable: bool = False,
    ) -> None:
        self.lease = lease
        self.delivery = delivery
        self.durable = durable
        """True when the run may be parked."""
        self.run_child_inline = run_child_inline
        """Executes a queued child in this attempt's slot; None where a slot can be given back."""
        self.inline_runs: dict[asyncio.Task[None], str] = {}
        """Ids of the children that may be executed in this slot, by the task that waits for it."""
        self.open_calls = 0
        """The number of child runs that this attempt started and that have not ended."""
        self.saved_state = SavedState()
        """What the handler has saved for its session."""
        self.cleanups = Cleanups()
        """The cleanups of the resources that adapters opened for this attempt."""
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.started_at = time.monotonic()
        self.clock = Clock(lease.redis_ms, lease.deadline_ms, delivery.time_limit, lease.rest_ms)
        """The time that the attempt has."""
        self.waiting = Waiting(self.loop, self.clock)
        """The waits of the handler, and whether it does anything else."""
        self._renewed_at = renewed_at
        self._stop: StopRequest | None = None
        self._stop_requested_at: float | None = None
        self._shutting_down = False
        self._ended = False
        self._handler: asyncio.Task[Any] | None = None
        self.claim_ms = int(max(self.started_at - renewed_at, 0) * 1000)
        """How long the claim took: by so much `clock` may be behind the time of Redis."""
        self._listeners: list[Callable[[], None]] = []
        self._writes: list[Callable[[], Awaitable[None]]] = []

    @cached_property
    def inline_lock(self) -> asyncio.Lock:
        """Held while a child is executed in this slot: one at a time."""
        return asyncio.Lock()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.lease.run_id

    @property
    def deadline_ms(self) -> int | None:
        """The end of the attempt's time, milliseconds since the epoch by Redis time."""
        return self.clock.deadline_ms

    @property
    def deadline(self) -> float | None:
        """The same by `time.monotonic`, for now: it moves while the handler waits."""
        return self.clock.deadline

    @property
    def renewed_at(self) -> float:
        """The time of the last lease renewal, by the home loop's clock."""
        return self._renewed_at

    @property
    def stop(self) -> StopRequest | None:
        """The stop request that counts; None without one."""
        return self._stop

    @property
    def stop_requested_at(self) -> float | None:
        """The time at which the attempt was first asked to stop for `stop`, by `time.monotonic`."""
        return self._stop_requested_at

    @property
    def shutting_down(self) -> bool:
        """True once the worker drains."""
        return self._shutting_down

    @property
    def ended(self) -> bool:
        """True once the handler has ended, or was abandoned."""
        return self._ended

    @property
    def handler(self) -> asyncio.Task[Any] | None:
        """The task that runs the handler; None before it has started, and after its end."""
        return self._handler

    @property
    def has_lease(self) -> bool:
        """False once the lease is known to be lost or given back."""
        return self._stop is None or self._stop.kind not in WITHOUT_LEASE

    @property
    def gives_back(self) -> bool:
        """True once the run is to go on in another attempt: no step may begin in this one."""
        return self._stop is not None and self._stop.kind in GIVES_BACK

    @property
    def continues(self) -> bool:
        """True while nothing ends the attempt: what is cancelled now, its handler has cancelled."""
        deadline = self.deadline
        overdue = deadline is not None and time.monotonic() >= deadline
        return self._stop is None and not self._ended and not overdue

    @property
    def is_lost(self) -> bool:
        """True once the lease is known to be lost."""
        return self._stop is not None and self._stop.kind is StopKind.LOST

    @property
    def cancel_reason(self) -> str | None:
        """The reason for the cancellation; None while the run is not cancelled."""
        if self._stop is not None and self._stop.kind is StopKind.CANCELLED:
            return self._stop.reason
        return None

    def renew(self, at: float) -> None:
        """Note that the lease was renewed by a request sent at `at`, in the home loop's time."""
        self._renewed_at = max(at, self._renewed_at)

    def begin_shutdown(self) -> None:
        """Note that the worker drains; the handler may look at `shutting_down`. Any thread."""
        self._shutting_down = True
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.waiting.changed)

    def start(self, handler: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start the handler as a task of the attempt's loop."""
        self._handler = self.loop.create_task(handler)
        return self._handler

    def end(self) -> None:
        """Note that the handler has ended: calls that it left open wait no longer."""
        self._ended = True
        # Its frames refer to the context, whose state refers to this attempt.
        self._handler = None
        self.waiting.close()
        self._notify()

    def request_stop(self, stop: StopRequest) -> None:
        """Ask the attempt to stop. Any thread."""
        if self._stop is None or _overrides(stop.kind, self._stop.kind):
            self._stop = stop
            self._stop_requested_at = time.monotonic()
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._notify)

    def lose(self) -> None:
        """Stop because the lease is lost: nothing more may be written. Any thread."""
        self.request_stop(StopRequest(StopKind.LOST, "the lease was lost"))

    def cancel(self, reason: str, code: str | None = None) -> None:
        """Stop because the run was cancelled. Any thread."""
        self.request_stop(StopRequest(StopKind.CANCELLED, reason, code))

    def deadline_request(self) -> StopRequest:
        """Return the request that stops the attempt for its passed deadline."""
        overdue = self.timed_out()
        return StopRequest(StopKind.DEADLINE, overdue.message, overdue.code)

    def timed_out(self) -> TimedOut:
        """Return the outcome of the passed deadline."""
        if self.clock.by_time_limit:
            return TimedOut(f"the task's time limit of {self.delivery.time_limit:g} s passed")
        return timed_out(self.delivery.header, self.deadline_ms)

    def is_overdue(self, error: BaseException) -> bool:
        """Return whether the handler ended with `error` because of the attempt's deadline."""
        deadline, deadline_ms = self.deadline, self.deadline_ms
        if deadline is None or deadline_ms is None:
            return False
        return is_overdue(error, from_millis(deadline_ms), deadline - time.monotonic())

    @contextlib.contextmanager
    def listening(self, callback: Callable[[], None]) -> Iterator[None]:
        """While active, call `callback` on the attempt's loop for each new request to stop."""
        self._listeners.append(callback)
        try:
            yield
        finally:
            self._listeners.remove(callback)

    def before_record(self, write: Callable[[], Awaitable[None]]) -> None:
        """Await `write` whenever something is about to be recorded."""
        self._writes.append(write)

    async def prepare_record(self) -> None:
        """Make durable what a record of this moment relies upon."""
        for write in tuple(self._writes):
            await write()

    async def wait_stopped(self) -> None:
        """Return once the attempt must stop or its handler has ended; on the attempt's loop."""
        changed = asyncio.Event()
        with self.listening(changed.set):
            while self._stop is None and not self._ended:
                await changed.wait()

    def _notify(self) -> None:
        for callback in tuple(self._listeners):
            callback()


def _overrides(kind: StopKind, former: StopKind) -> bool:
    """Return whether a request to stop counts in place of a former one."""
    if kind is StopKind.PARKED:
        return True
    return kind is StopKind.LOST and former not in WITHOUT_LEASE
