"""Parking: a durable run whose handler only waits gives its lease back and leaves this worker.

The order matters. A script parks the run first, under the lease, unless something that it waits for
has happened. Only then is the handler stopped: whatever it still does is ignored. A worker that
drains parks at once, and gives back what it cannot park.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from skillfleet.contracts.waits import WaitKind
from skillfleet.errors import EventsUnwritableError, FleetUnavailableError
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.records import WriteResult
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.event_buffer import EventBuffer
from skillfleet_worker.attempts.stop_request import SHUTS_DOWN, StopKind, StopRequest
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0
"""The time after which a refused or failed attempt to park is repeated."""
_NAMES: Final = {
    WaitKind.ASK: "an answer",
    WaitKind.GRANT: "an approval",
    WaitKind.MESSAGE: "a message",
    WaitKind.TIMER: "a timer",
    WaitKind.CALL: "a called run",
    WaitKind.LIMIT: "a limit",
}


def waits_for(kinds: tuple[WaitKind, ...]) -> str:
    """Return what a run waits for, in words."""
    return f"waits for {' and '.join(_NAMES[kind] for kind in kinds)}"


class ShownWaits:
    """Shows what an attempt waits for while it stays in memory. Belongs to its loop."""

    def __init__(self, attempt: Attempt, show: Callable[[str, str], None]) -> None:
        self._attempt = attempt
        self._show = show
        self._shown = ""
        attempt.waiting.on_change(self._review)

    def _review(self) -> None:
        kinds = self._attempt.waiting.kinds
        shown = waits_for(kinds) if kinds else ""
        if shown != self._shown and not self._attempt.ended and self._attempt.stop is None:
            self._shown = shown
            self._show(self._attempt.run_id, shown)


class Parking:
    """Parks the run of an attempt, or gives it back. Belongs to the loop of its handler."""

    def __init__(
        self, attempt: Attempt, events: EventBuffer, ledger: Ledger, settings: WorkerSettings
    ) -> None:
        self._attempt = attempt
        self._events = events
        self._ledger = ledger
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        attempt.waiting.on_change(self._review)

    def _review(self) -> None:
        """Start or end the countdown to parking, as the attempt's state requires."""
        attempt, waiting = self._attempt, self._attempt.waiting
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waiting.is_busy or attempt.ended or attempt.stop is not None:
            return
        may_park = attempt.durable and bool(waiting.awaited)
        if attempt.shutting_down and not may_park:
            if (attempt.durable or waiting.awaited) and not waiting.is_opening:
                # At once: the handler must not begin its next step.
                attempt.request_stop(SHUTS_DOWN)
        elif may_park:
            at_once = attempt.shutting_down or waiting.holds_slot
            self._park_in(0.0 if at_once else self._settings.park_seconds)

    def _park_in(self, seconds: float) -> None:
        if self._task is None or self._task.done():
            self._timer = self._attempt.loop.call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._attempt.ended or self._attempt.stop is not None:
            return
        self._task = self._attempt.loop.create_task(self._park())

    async def _park(self) -> None:
        """Park the run unless something that it waits for has happened."""
        attempt, waiting = self._attempt, self._attempt.waiting
        reason = waits_for(waiting.kinds)
        with waiting.holding():
            try:
                written = await bridge.at_home(self._events.exclusive(self._write))
            except (FleetUnavailableError, EventsUnwritableError) as error:
                logger.warning("run %s is not parked yet: %s", attempt.run_id, error)
                written = WriteResult.REFUSED
            if written is WriteResult.PARKED:
                attempt.request_stop(StopRequest(StopKind.PARKED, reason))
            elif written is WriteResult.LOST:
                attempt.lose()
        if attempt.stop is None:
            # Something has happened: what waits for it reads it now.
            waiting.check()
            self._timer = attempt.loop.call_later(_AGAIN_SECONDS, self._review)

    async def _write(self) -> WriteResult:
        """Write that the run is parked; on the home loop."""
        attempt, waiting = self._attempt, self._attempt.waiting
        while True:
            awaited = waiting.awaited
            if not awaited or waiting.is_busy or waiting.is_writing or waiting.is_opening:
                return WriteResult.REFUSED
            seq = self._events.seq
            spent = attempt.clock.spent_ms
            park = partial(self._ledger.leases.park, attempt.lease, seq, awaited, spent)
            # Without an answer, it would not be known whether the handler may continue.
            written = await retry_until(self._settings.events_patience_seconds, park)
            if written is not WriteResult.GAP:
                return written
            # Redis came back with less than it had.
            _, seq = await self._ledger.queries.state(attempt.run_id)
            self._events.continue_after(seq)
