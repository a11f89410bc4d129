"""Heartbeat: renews all leases of a process in one round trip."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.redis_client.connection import RETRY_SECONDS, ReplyError
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_ledger.runs.leases import Leases
from skillfleet_telemetry.metrics import REDIS_ERRORS, record
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.stop_request import LOST_TOUCH
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_STOP_PART, _STOP_SECONDS = 0.05, 0.3
"""The rest of a lease at which its run is given up: this part of it, at least these seconds."""
_SHORTEST_SECONDS = 0.05
_LOOK_SECONDS = 0.3
_ROUNDS = 10
_SEEN_SECONDS = 1.0
"""The time a run may continue after a read of its record; the reaper waits longer after a gap."""


def held_seconds(lease_seconds: float) -> float:
    """Return how long an attempt may continue after a renewal; stopping its handler takes time."""
    return lease_seconds - max(lease_seconds * _STOP_PART, _STOP_SECONDS)


def executed_by(attempts: Iterable[Attempt]) -> dict[str, int]:
    """Return the executing time (ms) of attempts for which it is limited, by run id."""
    limited = (each for each in attempts if each.clock.stands_in_waits)
    return {attempt.run_id: attempt.clock.spent_ms for attempt in limited}


class Heartbeat:
    """Renews leases, receives losses and cancellations, stops attempts it can no longer renew."""

    def __init__(
        self, leases: Leases, worker: str, attempts: Mapping[str, Attempt], settings: WorkerSettings
    ) -> None:
        self._leases = leases
        self._worker = worker
        self._attempts = attempts
        self._settings = settings
        self._held_seconds = held_seconds(settings.lease_seconds)
        # The reaper ignores expired leases for a while after a gap of six rounds. When a lease
        # expires, at least two thirds of it have passed without a write.
        self._reaper_waits = settings.lease_seconds >= _ROUNDS * settings.reap_seconds
        self._seen: WeakKeyDictionary[Attempt, float] = WeakKeyDictionary()
        self._early = asyncio.Event()
        self._outage = Outage(logger, "leases cannot be renewed")

    def soon(self) -> None:
        """Beat at once: commands may have been missed."""
        self._early.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._early.clear()
            if not await self.beat():
                # A failure may be immediate: pause before the next try.
                await asyncio.sleep(self._pause())
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.heartbeat_seconds):
                    await self._early.wait()

    async def beat(self) -> bool:
        """Renew all leases once and stop attempts that lost theirs; False when that failed."""
        attempts = dict(self._attempts)
        tokens = {run_id: attempt.lease.token for run_id, attempt in attempts.items()}
        began = asyncio.get_running_loop().time()
        try:
            answers = await self._leases.renew(
                self._worker,
                self._settings.lease_ms,
                tokens,
                self._patience(attempts),
                executed_by(attempts.values()),
            )
        except Exception as error:  # noqa: BLE001 - the leases expire whatever the error is
            record(REDIS_ERRORS, 1, "renew")
            self._outage.begin(error)
            if self._reaper_waits and _refuses_everybody(error):
                await self._look(attempts, tokens)
            self._give_up_overdue(attempts)
            return False
        self._outage.end()
        for run_id, answer in answers.items():
            attempt = attempts[run_id]
            if answer == "lost":
                attempt.lose()
                continue
            attempt.renew(began)
            # The order that a wait is decided may have been lost.
            attempt.waiting.check()
            if answer:
                attempt.cancel(answer.removeprefix("!"))
        return True

    async def _look(self, attempts: Mapping[str, Attempt], tokens: dict[str, int]) -> None:
        """While Redis refuses writes, let attempts continue whose record still names them.

        Another worker can restart a run only when Redis accepts writes again, and the reaper then
        first waits two seconds.
        """
        now = asyncio.get_running_loop().time()
        try:
            held = await self._leases.held(tokens, _LOOK_SECONDS)
        except (FleetUnavailableError, ReplyError):
            return
        for run_id, attempt in attempts.items():
            if run_id in held:
                self._seen[attempt] = now
            else:
                attempt.lose()

    def _patience(self, attempts: Mapping[str, Attempt]) -> float:
        """Return how long a renewal may take: until the first run has to be given up."""
        left = self._seconds_left(attempts)
        return max(min(self._settings.heartbeat_seconds, left), _SHORTEST_SECONDS)

    def _pause(self) -> float:
        return max(min(RETRY_SECONDS, self._seconds_left(self._attempts)), _SHORTEST_SECONDS)

    def _seconds_left(self, attempts: Mapping[str, Attempt]) -> float:
        """Return the time until the first run has to be given up."""
        now = asyncio.get_running_loop().time()
        left = (
            self._held_until(attempt) - now
            for attempt in tuple(attempts.values())
            if attempt.stop is None
        )
        return min(left, default=float("inf"))

    def _held_until(self, attempt: Attempt) -> float:
        renewed = attempt.renewed_at + self._held_seconds
        return max(renewed, self._seen.get(attempt, 0.0) + _SEEN_SECONDS)

    def _give_up_overdue(self, attempts: Mapping[str, Attempt]) -> None:
        """Stop attempts whose run another worker may start now."""
        now = asyncio.get_running_loop().time()
        for attempt in attempts.values():
            if now >= self._held_until(attempt):
                attempt.request_stop(LOST_TOUCH)


def _refuses_everybody(error: Exception) -> bool:
    return isinstance(error.__cause__, ReplyError) and error.__cause__.for_all
