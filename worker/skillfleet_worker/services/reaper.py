"""Bringing runs back whose worker or message is gone; one reaper in the fleet is active."""

import asyncio
import logging
import random
import time
from collections.abc import Callable

import orjson
from pydantic import ValidationError

from skillfleet.contracts import HEADER, InvocationHeader, ReasonCode, RunState
from skillfleet.errors import FleetUnavailableError, UnknownRunError
from skillfleet_ledger import Ledger
from skillfleet_ledger.celery_format import End
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_ledger.runs.store import Reaped, ReapOptions
from skillfleet_producer.publisher import Publisher
from skillfleet_telemetry.metrics import (
    DEAD_LETTERS,
    LEASES_LOST,
    REAPER_WORK,
    REDIS_ERRORS,
    RUNS,
    record,
)
from skillfleet_worker.attempts.outcomes import timed_out
from skillfleet_worker.attempts.telemetry import record_dead_attempt, record_lost_attempt
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_ENDS = {
    "dead": End(RunState.DEAD, ReasonCode.WORKER_LOST, "every attempt was lost with its worker"),
    "released": End(
        RunState.DEAD,
        ReasonCode.WORKER_LOST,
        "it was given back to its queue more than a hundred times and never ended",
    ),
    "overdue": End(RunState.TIMED_OUT, ReasonCode.DEADLINE_EXCEEDED, "the run's deadline passed"),
    "cancelled": End(RunState.CANCELLED, ReasonCode.CANCELLED_BY_CALLER, "cancelled by the caller"),
}
_OFFICE_ROUNDS = 3
_PRUNE_SECONDS = 300.0
_UNEVEN = random.SystemRandom()


class Reaper:
    """Runs rounds over all shards; does nothing while another worker holds the office."""

    def __init__(
        self, ledger: Ledger, publisher: Publisher, worker: str, settings: WorkerSettings
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._worker = worker
        self._settings = settings
        self._ask_broker_at: dict[int, float] = {}
        self._pruned_at = float("-inf")
        self._outage = Outage(logger, "the reaper cannot work")
        self.on_round: Callable[[Reaped], None] = lambda _: None

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
                logger.exception("the reaper stumbled and goes on")
            else:
                self._outage.end()
            # A little unevenness keeps many workers from asking in step.
            await asyncio.sleep(self._settings.reap_seconds * _UNEVEN.uniform(0.8, 1.0))

    async def round(self, shard: int) -> None:
        """One round over a shard, or several while there is more to do at once."""
        options = ReapOptions(
            office_ms=int(self._settings.reap_seconds * 1000 * _OFFICE_ROUNDS),
            grace_ms=int(self._settings.stranded_seconds * 1000),
            empty_queues=await self._empty_queues(shard),
        )
        more = True
        while more:
            reaped = await self._ledger.runs.reap(shard, self._worker, options)
            if reaped is None:
                return
            await self._handle(shard, reaped)
            more = reaped.more
        if shard == 0 and time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            await self._ledger.directory.prune()

    async def _empty_queues(self, shard: int) -> tuple[str, ...]:
        """Ask a broker that is not the ledger's Redis, now and then, which queues are empty."""
        now = asyncio.get_running_loop().time()
        if self._settings.broker_is_ledger or now < self._ask_broker_at.get(shard, 0):
            return ()
        self._ask_broker_at[shard] = now + self._settings.stranded_seconds / 2
        try:
            return await self._publisher.empty(await self._ledger.runs.waiting_queues(shard))
        except OSError as error:
            logger.warning("the reaper cannot ask the broker: %s", error)
            return ()

    async def _handle(self, shard: int, reaped: Reaped) -> None:
        published = await asyncio.gather(*(self._publish(run_id) for run_id in reaped.publish))
        await self._ledger.runs.published(shard, [run_id for run_id in published if run_id])
        # The script lists the runs whose lease ran out first.
        for run_id in reaped.publish[: reaped.counts.get("restarted", 0)]:
            await record_lost_attempt(self._ledger.runs, run_id)
        for run_id, token, why in reaped.close:
            try:
                await self._close(run_id, token, why)
            except Exception:
                logger.exception("run %s could not be ended yet", run_id)
        for run_id in reaped.owed:
            try:
                await self._ledger.runs.pay(run_id)
            except Exception:
                logger.exception("what run %s called could not be cancelled yet", run_id)
        self._report(reaped)

    def _report(self, reaped: Reaped) -> None:
        self.on_round(reaped)
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
        """Publish one run's message; '' when it must be tried again. Never raises."""
        try:
            invocation = await self._ledger.runs.invocation(run_id)
            if invocation is not None:
                await self._publisher.publish(invocation)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go out
            logger.warning("run %s is not published yet: %s", run_id, error)
            return ""
        return run_id

    async def _close(self, run_id: str, token: int, why: str) -> None:
        try:
            status = await self._ledger.runs.status(run_id)
        except UnknownRunError:
            return
        end = _ENDS[why]
        if why == "cancelled":
            end = await self._cancelled(run_id)
        if why == "overdue":
            end = await self._overdue(run_id)
        closed = await self._ledger.runs.close(run_id, status.name, end, token)
        if closed == "closed":
            record(RUNS, 1, status.name, end.state)
            if status.state is RunState.RUNNING:
                record(LEASES_LOST)
            if end.state is RunState.DEAD:
                record(DEAD_LETTERS, 1, "run")
            await record_dead_attempt(self._ledger.runs, status)
            logger.warning("run %s of %s ended %s: %s", run_id, status.name, end.state, end.message)
            await self._ledger.runs.cancel_children(run_id, f"the calling run ended {end.state}")

    async def _cancelled(self, run_id: str) -> End:
        """The end as the one who asked for it has put it."""
        asked = await self._ledger.runs.invocation(run_id)
        end = _ENDS["cancelled"]
        if asked is None or asked.cancel_reason is None:
            return end
        return End(end.state, asked.cancel_code or end.code, asked.cancel_reason)

    async def _overdue(self, run_id: str) -> End:
        record = await self._ledger.runs.invocation(run_id)
        if record is None:
            return _ENDS["overdue"]
        try:
            header = InvocationHeader.model_validate(orjson.loads(record.headers).get(HEADER))
        except ValidationError:
            return _ENDS["overdue"]
        overdue = timed_out(header, record.deadline_ms)
        return End(RunState.TIMED_OUT, overdue.code, overdue.message)
