"""Reaper: restarts or ends runs whose worker or message is lost; one in the fleet is active."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial

import orjson

from skillfleet.contracts import HEADER, InvocationHeader, ReasonCode, RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet.texts import shortened_text
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_ledger.runs.maintenance import ReapOptions, ReapResult
from skillfleet_ledger.runs.records import Invocation
from skillfleet_producer.publisher import Publisher
from skillfleet_telemetry.metrics import (
    DEAD_LETTERS,
    LEASES_LOST,
    REAPER_WORK,
    REDIS_ERRORS,
    RUNS,
    record,
    tag_labels,
)
from skillfleet_worker.attempts.outcomes import Cancelled, timed_out
from skillfleet_worker.attempts.settlement import Settlement, cancelled_as_asked
from skillfleet_worker.attempts.telemetry import record_dead_attempt, record_lost_attempt
from skillfleet_worker.services.schedules import ScheduleRounds
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_DEAD = {
    "dead": "every attempt was lost with its worker",
    "released": "it was given back to its queue more than a hundred times and never ended",
}
_LOCK_ROUNDS = 3
_PRUNE_SECONDS = 300.0
_UNEVEN = random.SystemRandom()


class Reaper:
    """The reaper: rounds over all shards, unless another worker holds the leader lock."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        worker: str,
        settings: WorkerSettings,
        show_end: Callable[[str, str, RunEnd], None],
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._settlement = Settlement(ledger, publisher)
        self._worker = worker
        self._settings = settings
        self._show_end = show_end
        self._schedules = ScheduleRounds(ledger, publisher, settings)
        self._ask_broker_at: dict[int, float] = {}
        self._pruned_at = float("-inf")
        self._outage = Outage(logger, "the reaper cannot reach Redis")

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            try:
                for shard in range(self._settings.shards):
                    await self.round(shard)
            except (FleetUnavailableError, OSError) as error:
                record(REDIS_ERRORS, 1, "reap")
                self._outage.begin(error)
            except Exception:
                logger.exception("reaper round failed; continuing")
            else:
                self._outage.end()
            # Uneven intervals keep many workers from asking at the same moment.
            await asyncio.sleep(self._settings.reap_seconds * _UNEVEN.uniform(0.8, 1.0))

    async def round(self, shard: int) -> None:
        """Do a round over a shard, and further ones while there is more to do at once."""
        options = ReapOptions(
            lock_ttl_ms=int(self._settings.reap_seconds * 1000 * _LOCK_ROUNDS),
            grace_ms=int(self._settings.stranded_seconds * 1000),
            empty_queues=await self._empty_queues(shard),
        )
        more = True
        while more:
            reaped = await self._ledger.maintenance.reap(shard, self._worker, options)
            if reaped is None:
                return
            await self._handle(shard, reaped)
            more = reaped.more
        await self._end_unserved(shard)
        await self._schedules.round(shard)
        if shard == 0 and time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            await self._ledger.directory.prune()

    async def _end_unserved(self, shard: int) -> None:
        """End the runs that waited too long for a worker that serves their skills."""
        found = await self._ledger.held.reap(shard)
        if not found:
            return
        cards = await self._ledger.directory.catalogue()
        known = ", ".join(
            sorted({f"{card.name}.{skill.name}" for card in cards for skill in card.skills})
        )
        for run_id, token in found:
            try:
                await self._end(run_id, token, lambda run: self._unserved(run.task, known))
            except Exception:
                logger.exception("run %s could not be ended yet", run_id)

    async def _empty_queues(self, shard: int) -> tuple[str, ...]:
        """Ask a broker that is not the ledger's Redis, at intervals, which queues are empty."""
        now = asyncio.get_running_loop().time()
        if self._settings.broker_is_ledger or now < self._ask_broker_at.get(shard, 0):
            return ()
        self._ask_broker_at[shard] = now + self._settings.stranded_seconds / 2
        try:
            return await self._publisher.empty(await self._ledger.maintenance.waiting_queues(shard))
        except OSError as error:
            logger.warning("the reaper cannot ask the broker: %s", error)
            return ()

    async def _handle(self, shard: int, reaped: ReapResult) -> None:
        """Do what the reaper's script left to this process."""
        ledger = self._ledger
        published = await asyncio.gather(*(self._publish(run_id) for run_id in reaped.to_publish))
        await ledger.maintenance.published(shard, [run_id for run_id in published if run_id])
        for run_id in reaped.restarted:
            await record_lost_attempt(ledger.queries, run_id, self._settings.tag_keys)
        for run_id, token, why in reaped.to_end:
            try:
                await self._end(run_id, token, partial(_end_of, why))
            except Exception:
                logger.exception("run %s could not be ended yet", run_id)
        for run_id in reaped.to_clean_up:
            try:
                await ledger.cancellation.clean_up(run_id)
            except Exception:
                logger.exception("the children of run %s could not be cancelled yet", run_id)
        self._report(reaped)

    def _report(self, reaped: ReapResult) -> None:
        for work, count in reaped.counts.items():
            if count:
                record(REAPER_WORK, count, work)
        if restarted := reaped.counts.get("restarted"):
            record(LEASES_LOST, restarted)
        if aside := reaped.counts.get("aside"):
            logger.warning("%d runs have unreadable records: left alone for ten minutes", aside)
        if done := {name: count for name, count in reaped.counts.items() if count}:
            logger.info("reaped: %s", ", ".join(f"{name} {n}" for name, n in done.items()))

    async def _publish(self, run_id: str) -> str:
        """Publish one run's message and return its id; '' when that failed. Never raises."""
        try:
            invocation = await self._ledger.queries.invocation(run_id)
            if invocation is not None:
                await self._publisher.publish(invocation, first=invocation.has_journal)
        except Exception as error:  # noqa: BLE001 - the other runs are published all the same
            logger.warning("run %s is not published yet: %s", run_id, error)
            return ""
        return run_id

    def _unserved(self, task: str, known: str) -> RunEnd:
        waited = f"no worker served {task} within {self._settings.unserved_seconds:g} s"
        message = shortened_text(f"{waited}; known skills: {known}")
        return RunEnd(RunState.FAILED, ReasonCode.UNKNOWN_SKILL, message)

    async def _end(self, run_id: str, token: int, end_of: Callable[[Invocation], RunEnd]) -> None:
        """End a run that no worker will end, and the runs that it called."""
        run = await self._ledger.queries.lost_run(run_id)
        if run is None:
            return
        name, end = run.status.name, end_of(run.invocation)
        if not await self._settlement.end_run(run_id, name, end, token):
            return
        tag_keys = self._settings.tag_keys
        record(RUNS, 1, name, end.state, *tag_labels(run.status.tags, tag_keys))
        if run.status.state in (RunState.RUNNING, RunState.WAITING) and not run.status.parked:
            record(LEASES_LOST)
        if end.state is RunState.DEAD:
            record(DEAD_LETTERS, 1, "run")
        record_dead_attempt(run, tag_keys)
        logger.warning("run %s of %s ended %s: %s", run_id, name, end.state, end.message)
        self._show_end(run_id, name, end)


def _end_of(why: str, invocation: Invocation) -> RunEnd:
    """Return how a run ends; `why` is the reason that the reaper's script gives."""
    if why == "cancelled":
        return cancelled_as_asked(invocation, Cancelled("cancelled by the caller")).end()
    if why == "overdue":
        return timed_out(_header_of(invocation), invocation.deadline_ms).end()
    return RunEnd(RunState.DEAD, ReasonCode.WORKER_LOST, _DEAD[why])


def _header_of(invocation: Invocation) -> InvocationHeader | None:
    try:
        return InvocationHeader.model_validate(orjson.loads(invocation.headers).get(HEADER))
    except (ValueError, AttributeError):
        # A record may hold invalid values.
        return None
