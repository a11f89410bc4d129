"""Watchdog thread: keeps leases alive and recycles the process when a handler blocks its loop.

A handler that blocks its event loop does not see a cancellation and, in the event-loop pool,
stops the heartbeat. The engine's `LoopWatchdog` detects that and logs the blocking code; this
thread acts on it. It renews the leases in the loop's place. When a handler cannot be stopped in
another way, it ends the process: the handler's run ends as requested, all other runs go back to
the queue, uncounted, and the worker starts again.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from skillfleet.errors import FleetUnavailableError
from skillfleet_engine.loop.watchdog import stack_of
from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_producer.publisher import publisher_for
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.outcomes import Outcome, Released, goes_on
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.settlement import Settlement
from skillfleet_worker.attempts.stop_request import LOST_TOUCH
from skillfleet_worker.services.heartbeat import executed_by, held_seconds

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 0.5
_LATE_SECONDS = 1.0
_RECYCLE_SECONDS = 10.0


class Watchdog:
    """The thread that acts for a process whose handlers block it."""

    def __init__(self, process: WorkerProcess, restart: Callable[[], None]) -> None:
        self._process = process
        self._settings = process.settings
        self._restart = restart
        self._stuck_after = (
            self._settings.cancel_grace_seconds + self._settings.abandon_seconds + _LATE_SECONDS
        )
        self._stopped = threading.Event()
        self._outage = Outage(logger, "the watchdog cannot reach Redis")
        self._thread = threading.Thread(target=self._run, name="skillfleet-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; any thread may call this."""
        self._stopped.set()

    def release_all(self) -> None:
        """Release all runs of this process, which is ending; in a thread without a loop."""
        asyncio.run(self._hand_over([]))
        asyncio.run(self._clean_up())

    def _run(self) -> None:
        while not self._stopped.wait(_CHECK_SECONDS):
            try:
                self._check()
                self._outage.end()
            except FleetUnavailableError as error:
                self._outage.begin(error)
            except Exception:
                logger.exception("the watchdog's check failed; continuing")

    def _check(self) -> None:
        blocked = self._process.loop_watchdog.blocked_seconds
        if blocked > self._settings.heartbeat_seconds:
            try:
                asyncio.run(self._renew_leases())
            finally:
                self._give_up_overdue()
        stuck = [attempt for attempt in self._attempts() if self._is_stuck(attempt, blocked)]
        if stuck and not self._stopped.is_set():
            self._recycle(stuck)

    def _attempts(self) -> list[Attempt]:
        return list(self._process.attempts.values())

    async def _renew_leases(self) -> None:
        """Renew the leases in the blocked loop's place, and receive cancellations."""
        attempts = self._attempts()
        tokens = {attempt.run_id: attempt.lease.token for attempt in attempts}
        # Redis counts a lease from the request on; the reply may arrive much later.
        began = self._process.loop_time()
        ledger = Ledger(self._settings, name="skillfleet-watchdog", patient=True)
        try:
            answers = await ledger.leases.renew(
                self._process.name,
                self._settings.lease_ms,
                tokens,
                self._settings.lease_seconds,
                executed_by(attempts),
            )
        finally:
            await ledger.close()
        for attempt in attempts:
            answer = answers.get(attempt.run_id)
            if answer == "lost":
                attempt.lose()
            elif answer is not None:
                attempt.renew(began)
                if answer:
                    attempt.cancel(answer.removeprefix("!"))

    def _give_up_overdue(self) -> None:
        """Stop attempts that no longer hold their lease, once their loop runs again."""
        held = held_seconds(self._settings.lease_seconds)
        for attempt in self._attempts():
            if self._process.loop_time() - attempt.renewed_at >= held:
                attempt.request_stop(LOST_TOUCH)

    def _is_stuck(self, attempt: Attempt, blocked: float) -> bool:
        """Return True when the handler should have stopped by now and its own code prevents it."""
        now = time.monotonic()
        if attempt.ended:
            return False
        if attempt.deadline is not None and now > attempt.deadline + _LATE_SECONDS:
            attempt.request_stop(attempt.deadline_request())
        if attempt.stop_requested_at is None or now - attempt.stop_requested_at < self._stuck_after:
            return False
        if attempt.loop is self._process.home:
            return blocked > _LATE_SECONDS and self._process.executing() in (None, attempt.run_id)
        return True

    def _recycle(self, stuck: list[Attempt]) -> None:
        for attempt in stuck:
            logger.critical(
                "run %s cannot be stopped: this process is recycled; its handler is in:\n%s",
                attempt.run_id,
                stack_of(attempt.thread_id),
            )
        self._stopped.set()
        try:
            asyncio.run(asyncio.wait_for(self._hand_over(stuck), _RECYCLE_SECONDS))
        except Exception as error:  # noqa: BLE001 - the process ends in any case
            logger.warning("the runs of this process are left to the reaper: %r", error)
        try:
            asyncio.run(self._clean_up())
        finally:
            self._restart()

    async def _hand_over(self, stuck: list[Attempt]) -> None:
        """End the stuck runs as requested, release all others."""
        ledger = Ledger(self._settings, name="skillfleet-watchdog", patient=True)
        publisher = publisher_for(ledger)
        settlement = Settlement(ledger, publisher)
        try:
            for attempt in self._attempts():
                outcome = _outcome(attempt, is_stuck=attempt in stuck)
                try:
                    await settlement.settle_at_once(attempt, outcome)
                except Exception as error:  # noqa: BLE001 - the other runs still are
                    logger.warning("run %s is left to the reaper: %r", attempt.run_id, error)
        finally:
            await publisher.close()
            await ledger.close()

    async def _clean_up(self) -> None:
        """Close what the attempts of this process opened: their own loops may be blocked."""
        await asyncio.gather(
            *(attempt.cleanups.take_over(attempt.run_id) for attempt in self._attempts())
        )


def _outcome(attempt: Attempt, *, is_stuck: bool) -> Outcome:
    """Return how an attempt ends with its process: as it was asked to, or back in its queue."""
    if is_stuck and attempt.stop is not None:
        outcome = attempt.stop.outcome()
        if not goes_on(outcome):
            return outcome
    return Released("its worker process was recycled")


def restart_process() -> None:
    """Start the worker again in this process: its id, its output and its parent stay."""
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell wanted


def end_child() -> None:
    """End this child process at once; Celery's main process starts another."""
    logging.shutdown()
    os._exit(70)
