"""Keeping the leases of a process alive: all of them in one round trip."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.runs import RunStore
from skillfleet_worker.runtime.attempt import Attempt, Stop, StopKind
from skillfleet_worker.settings import WorkerSettings
from skillfleet_worker.telemetry.metrics import REDIS_ERRORS, record

logger = logging.getLogger(__name__)

HELD = 0.95
"""The part of a lease after which its run is given up here: stopping a handler takes a moment."""
LOST_TOUCH = Stop(StopKind.RELEASED, "the worker lost touch with Redis")
_SHORTEST_SECONDS = 0.05


class Heartbeat:
    """Renews, hears of lost leases and cancellations, and stops what it can no longer renew."""

    def __init__(
        self, runs: RunStore, worker: str, attempts: Mapping[str, Attempt], settings: WorkerSettings
    ) -> None:
        self._runs = runs
        self._worker = worker
        self._attempts = attempts
        self._settings = settings
        self._held_seconds = settings.lease_seconds * HELD
        self._early = asyncio.Event()

    def soon(self) -> None:
        """Beat at once: orders may have been missed."""
        self._early.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._early.clear()
            await self.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.heartbeat_seconds):
                    await self._early.wait()

    async def beat(self) -> None:
        """Renew all leases once; attempts that lost theirs are told so."""
        attempts = dict(self._attempts)
        tokens = {run_id: attempt.lease.token for run_id, attempt in attempts.items()}
        began = asyncio.get_running_loop().time()
        try:
            answers = await self._runs.renew(
                self._worker, self._settings.lease_ms, tokens, self._patience(attempts)
            )
        except FleetUnavailableError as error:
            record(REDIS_ERRORS, 1, "renew")
            logger.warning("leases could not be renewed: %s", error)
            self._give_up_overdue(attempts)
            self._early.set()
            return
        for run_id, answer in answers.items():
            attempt = attempts[run_id]
            if answer == "lost":
                attempt.lose()
                continue
            attempt.renewed_at = began
            if answer:
                attempt.cancel(answer.removeprefix("!"))

    def _patience(self, attempts: Mapping[str, Attempt]) -> float:
        """How long a renewal may take: never beyond the moment at which a run must be given up."""
        now = asyncio.get_running_loop().time()
        left = (
            attempt.renewed_at + self._held_seconds - now
            for attempt in attempts.values()
            if attempt.stop is None
        )
        return max(min((self._settings.heartbeat_seconds, *left)), _SHORTEST_SECONDS)

    def _give_up_overdue(self, attempts: Mapping[str, Attempt]) -> None:
        """Somebody else may start these runs now: they must not go on here."""
        now = asyncio.get_running_loop().time()
        for attempt in attempts.values():
            if now - attempt.renewed_at >= self._held_seconds:
                attempt.order(LOST_TOUCH)
