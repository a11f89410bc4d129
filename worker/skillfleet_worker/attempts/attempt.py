"""One running attempt: its lease, and the orders to stop that reach it from outside."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from skillfleet.contracts import from_millis
from skillfleet.failures import is_overdue
from skillfleet_ledger.runs.store import Lease
from skillfleet_worker.attempts.delivery import Delivery
from skillfleet_worker.attempts.outcomes import TimedOut, timed_out

Lend = Callable[[str], Coroutine[Any, Any, None]]
_LONGEST_SECONDS = 10 * 365 * 86_400


class StopKind(StrEnum):
    """Why an attempt must stop before its handler returned."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    BUDGET = "budget"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Stop:
    """An order to stop, and its reason for people."""

    kind: StopKind
    reason: str = ""
    code: str | None = None


class Attempt:
    """The attempt's side of the orders; belongs to the loop its handler runs on.

    Orders may come from any thread; the first one counts, except that a lost lease overrides
    all others.
    """

    def __init__(
        self, lease: Lease, delivery: Delivery, renewed_at: float, lend: Lend | None = None
    ) -> None:
        self.lend = lend
        """Executes a run that is still queued in the slot of this one, where that may be."""
        self.lent: dict[asyncio.Task[None], str] = {}
        """The runs that the slot is lent to, by what sees to it."""
        self.lease = lease
        self.delivery = delivery
        self.renewed_at = renewed_at
        """When the lease was last renewed, in the home loop's time."""
        self.started_at = time.monotonic()
        self.open_calls = 0
        """How many runs this attempt has called and not seen end."""
        self.call_counts: Counter[str] = Counter()
        """How often it made the same call; part of a call's identity."""
        self.shutting_down = False
        self.stop: Stop | None = None
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.ordered_at: float | None = None
        """When the attempt was ordered to stop, by `time.monotonic`."""
        self.handler: asyncio.Task[Any] | None = None
        self.ended = False
        """True when the handler is over, or was left behind."""
        self.deadline_ms = _deadline_ms(lease, delivery.time_limit)
        """When the attempt's time is up, milliseconds since the epoch by Redis time."""
        self.deadline = _deadline(lease, self.deadline_ms)
        """The same by `time.monotonic`."""
        self._listeners: list[Callable[[], None]] = []

    @cached_property
    def lending(self) -> asyncio.Lock:
        """Held while the slot is lent: to one run at a time."""
        return asyncio.Lock()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.lease.run_id

    @property
    def cancel_reason(self) -> str | None:
        """Why the run was cancelled; None while it was not."""
        if self.stop is not None and self.stop.kind is StopKind.CANCELLED:
            return self.stop.reason
        return None

    def order(self, stop: Stop) -> None:
        """Order the attempt to stop."""
        if self.stop is None or (
            stop.kind is StopKind.LOST and self.stop.kind is not StopKind.LOST
        ):
            self.stop = stop
            self.ordered_at = time.monotonic()
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._notify)

    def is_overdue(self, error: BaseException) -> bool:
        """Whether the handler, which ended with `error`, ended for the attempt's deadline."""
        if self.deadline is None or self.deadline_ms is None:
            return False
        return is_overdue(error, from_millis(self.deadline_ms), self.deadline - time.monotonic())

    def timed_out(self) -> TimedOut:
        """The outcome when the deadline has passed."""
        if self.deadline_ms != self.lease.deadline_ms:
            return TimedOut(f"the task's time limit of {self.delivery.time_limit:g} s passed")
        return timed_out(self.delivery.header, self.lease.deadline_ms)

    def end(self) -> None:
        """The handler is over: calls that it left open wait no more."""
        self.ended = True
        self._notify()

    def lose(self) -> None:
        """The lease is gone: stop, and write nothing more."""
        self.order(Stop(StopKind.LOST, "the lease was lost"))

    def cancel(self, reason: str, code: str | None = None) -> None:
        """The caller asked for the end of the run."""
        self.order(Stop(StopKind.CANCELLED, reason, code))

    @contextlib.contextmanager
    def listening(self, heard: Callable[[], None]) -> Iterator[None]:
        """Inside, orders to stop call `heard`, on the attempt's own loop; those before do not."""
        self._listeners.append(heard)
        try:
            yield
        finally:
            self._listeners.remove(heard)

    async def wait_stopped(self) -> None:
        """Return once the attempt must stop or its handler is over; on the attempt's own loop."""
        changed = asyncio.Event()
        with self.listening(changed.set):
            while self.stop is None and not self.ended:
                await changed.wait()

    def _notify(self) -> None:
        for heard in tuple(self._listeners):
            heard()


def _deadline_ms(lease: Lease, time_limit: float | None) -> int | None:
    if time_limit is None:
        return lease.deadline_ms
    end = lease.redis_ms + int(min(time_limit, _LONGEST_SECONDS) * 1000)
    return end if lease.deadline_ms is None else min(end, lease.deadline_ms)


def _deadline(lease: Lease, deadline_ms: int | None) -> float | None:
    if deadline_ms is None:
        return None
    return time.monotonic() + max(deadline_ms - lease.redis_ms, 0) / 1000
