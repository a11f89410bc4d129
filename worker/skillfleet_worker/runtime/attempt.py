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

from skillfleet_ledger.runs import Lease
from skillfleet_worker.runtime.delivery import Delivery
from skillfleet_worker.runtime.outcomes import TimedOut, timed_out

Lend = Callable[[str], Coroutine[Any, Any, None]]


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
        self.deadline = _deadline(lease)
        """When the run's time is up, by `time.monotonic`."""
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
                self.loop.call_soon_threadsafe(self._tell)

    def timed_out(self) -> TimedOut:
        """The outcome when the deadline has passed."""
        return timed_out(self.delivery.header, self.lease.deadline_ms)

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

    async def wait_stopped(self) -> Stop:
        """Return the order to stop once there is one; on the attempt's own loop."""
        ordered = asyncio.Event()
        with self.listening(ordered.set):
            while self.stop is None:
                await ordered.wait()
        return self.stop

    def _tell(self) -> None:
        for heard in tuple(self._listeners):
            heard()


def _deadline(lease: Lease) -> float | None:
    if lease.deadline_ms is None:
        return None
    return time.monotonic() + max(lease.deadline_ms - lease.redis_ms, 0) / 1000
