"""Schedules: the reaper enqueues what is due, once each."""

import asyncio
import logging
from collections.abc import Sequence

from skillfleet.contracts import Overlap
from skillfleet.errors import (
    FleetUnavailableError,
    IdempotencyConflictError,
    SkillfleetError,
    UnknownRunError,
    UnknownScheduleError,
)
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.schedules import StoredSchedule
from skillfleet_producer.enqueuing import Enqueuer
from skillfleet_producer.publisher import Publisher
from skillfleet_producer.scheduling import Scheduling, timing_of
from skillfleet_producer.timing import MOST_AT_ONCE, due_of
from skillfleet_telemetry.metrics import SCHEDULE_LAG, SCHEDULED, record
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_MOST = 1000
_AT_ONCE = 20
_CHECK_MS = 60_000
_SET_ASIDE_MS = 600_000


class ScheduleRounds:
    """Rounds over the schedules of a shard, for the worker that is reaper.

    An occurrence is handled in this order: its run, whose id follows from schedule and time, is
    enqueued; then the schedule moves on, unless another process has moved it. So a process may die
    anywhere between, or two may do the same.
    """

    def __init__(self, ledger: Ledger, publisher: Publisher, settings: WorkerSettings) -> None:
        self._ledger = ledger
        self._schedules = ledger.schedules
        self._scheduling = Scheduling(ledger, Enqueuer(ledger, publisher))
        self._grace_ms = int(settings.schedule_grace_seconds * 1000)
        self._checked_ms: dict[int, int] = {}

    async def round(self, shard: int) -> None:
        """Enqueue what is due; raises FleetUnavailableError."""
        now_ms, names = await self._schedules.due(shard, _MOST)
        # Now and then all of them: where the clock was set back, their next time may be far away.
        if abs(now_ms - self._checked_ms.get(shard, 0)) >= _CHECK_MS:
            self._checked_ms[shard] = now_ms
            names = await self._schedules.names(shard)
        for start in range(0, len(names), _AT_ONCE):
            batch = names[start : start + _AT_ONCE]
            await asyncio.gather(*(self._handle(name, now_ms) for name in batch))

    async def _handle(self, name: str, now_ms: int) -> None:
        """Handle one schedule: one that is invalid must not keep the others back."""
        try:
            await _Occurrences(
                self._ledger, self._scheduling, await self._schedules.get(name), now_ms
            ).handle(self._grace_ms)
        except FleetUnavailableError:
            raise
        except Exception as error:
            if isinstance(error, UnknownScheduleError):
                logger.warning("schedule %r was removed, or is unreadable", name)
            else:
                logger.exception("schedule %s failed; it is left alone for ten minutes", name)
            await self._schedules.set_aside(name, now_ms + _SET_ASIDE_MS)


class _Occurrences:
    """The occurrences of one schedule that are due in one round."""

    def __init__(
        self, ledger: Ledger, scheduling: Scheduling, stored: StoredSchedule, now_ms: int
    ) -> None:
        self._ledger = ledger
        self._scheduling = scheduling
        self._stored = stored
        self._now_ms = now_ms
        self._fields: dict[str, str | int] = {}
        self._queue = ""

    async def handle(self, grace_ms: int) -> None:
        """Start the occurrences that are due, as far as others let them, and move on."""
        stored = self._stored
        if stored.paused:
            return
        start: Sequence[int] = stored.waiting
        following = stored.next_ms
        if stored.next_ms is not None:
            due = due_of(timing_of(stored), stored.next_ms, self._now_ms, grace_ms, stored.catch_up)
            start, following = (*stored.waiting, *due.start), due.next_ms
            if due.dropped:
                logger.warning("schedule %s: runs were missed and are left out", stored.name)
                record(SCHEDULED, 1, "missed")
        waiting = await self._start_due(start) if start else ()
        if waiting != stored.waiting:
            self._fields["waiting"] = ",".join(map(str, waiting))
        if following != stored.next_ms or self._fields:
            await self._ledger.schedules.change(stored, following, self._fields, queue=self._queue)

    async def _start_due(self, moments: Sequence[int]) -> tuple[int, ...]:
        """Start runs; return the occurrences that wait for the end of the last one."""
        stored = self._stored
        if stored.overlap == Overlap.ALLOW:
            for moment in moments:
                await self._start(moment)
            return ()
        is_busy = await self._is_live(stored.last)
        if stored.overlap == Overlap.QUEUE:
            first, *rest = moments[-MOST_AT_ONCE:]
            if is_busy:
                return (first, *rest)
            await self._start(first, alone=True)
            return tuple(rest)
        if skipped := len(moments) - (0 if is_busy else 1):
            record(SCHEDULED, skipped, "skipped")
        if not is_busy:
            # One run stands for all that were due.
            await self._start(moments[-1], alone=True)
        return ()

    async def _start(self, moment: int, *, alone: bool = False) -> None:
        """Enqueue the run of an occurrence; why it cannot be is noted in the schedule.

        `alone`: the run is noted before it is enqueued, so that the process that goes on after a
        crash knows whose end to wait for.
        """
        stored = self._stored
        try:
            new = await self._scheduling.prepare(stored, moment)
            if alone and not await self._ledger.schedules.note_run(stored, new.id, is_any=False):
                return
            created = await self._scheduling.submit(new)
        except FleetUnavailableError:
            raise
        except IdempotencyConflictError:
            # It was enqueued before, and its schedule has got other arguments since.
            return
        except SkillfleetError as error:
            logger.warning("schedule %s: its run could not be enqueued: %s", stored.name, error)
            record(SCHEDULED, 1, "failed")
            self._fields["problem"] = str(error)
            return
        self._queue = new.queue
        self._fields |= {"last": new.id, "last_due": moment, "problem": ""}
        if created:
            record(SCHEDULED, 1, "enqueued")
            record(SCHEDULE_LAG, max(0, self._now_ms - moment) / 1000)

    async def _is_live(self, run_id: str | None) -> bool:
        if run_id is None:
            return False
        try:
            state, _ = await self._ledger.queries.state(run_id)
        except UnknownRunError:
            return False
        return not state.terminal
