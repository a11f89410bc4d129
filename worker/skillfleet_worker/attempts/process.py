"""One executing process: its ledger connection, its running attempts, its services.

Lives on the process's home loop. In the event-loop and threads pools that is one for the
worker, with prefork one for each child.
"""

import asyncio
import logging
import os
import random
import socket
import threading
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from skillfleet.contracts import AgentCard
from skillfleet.errors import FleetUnavailableError
from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.watchdog import LoopWatchdog
from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_ledger.runs.store import RunStore
from skillfleet_producer.publisher import Publisher, publisher_for
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.stop_request import SHUTS_DOWN
from skillfleet_worker.services.heartbeat import Heartbeat
from skillfleet_worker.services.reaper import Reaper
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_CARD_BEATS = 3
_EARLY_SECONDS = 10.0


def name_of(pid: int) -> str:
    """How the name of this machine's worker process with that id begins."""
    return f"{socket.gethostname()}:{pid}-"


class WorkerProcess:
    """What all attempts of a process share. Create and use it on the home loop."""

    def __init__(self, settings: WorkerSettings, cards: Sequence[AgentCard]) -> None:
        self.settings = settings
        self.name = f"{name_of(os.getpid())}{uuid.uuid4().hex[:8]}"
        self.ledger = Ledger(settings, name="skillfleet-worker", patient=True)
        self.publisher: Publisher = publisher_for(self.ledger)
        self.attempts: dict[str, Attempt] = {}
        self.draining = False
        self.random = random.SystemRandom()
        self._cards = tuple(cards)
        self._heartbeat = Heartbeat(self.ledger.runs, self.name, self.attempts, settings)
        self.reaper = Reaper(self.ledger, self.publisher, self.name, settings)
        self.companions: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Further services that live as long as the process; add them before the start."""
        self._services: list[asyncio.Task[None]] = []
        self._release: asyncio.TimerHandle | None = None
        self._release_at = float("inf")
        self._releasing = False
        self._early_cancels: dict[str, tuple[str, str]] = {}
        self._looks: set[asyncio.Task[None]] = set()
        self.home = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.loop_watchdog: LoopWatchdog = bridge.home_watchdog(settings.blocked_seconds)
        self.loop_watchdog.name_tasks_by(self.executing)

    def loop_time(self) -> float:
        """The home loop's time; from any thread."""
        return self.home.time()

    @property
    def last_turn(self) -> float:
        """When the home loop last gave a sign of life, by `time.monotonic`; any thread."""
        return self.loop_watchdog.last_turn

    def executing(self) -> str | None:
        """The run whose handler executes on the home loop right now; None if none is known to.

        Any thread may ask.
        """
        task = asyncio.current_task(self.home)
        attempts = tuple(self.attempts.values())
        owners = (a.run_id for a in attempts if a.handler is not None and a.handler is task)
        return next(owners, None)

    @property
    def runs(self) -> RunStore:
        """The ledger's runs."""
        return self.ledger.runs

    def start(self) -> None:
        """Start the services: orders, heartbeat, reaper, directory."""
        for service in (
            self._listen,
            self._heartbeat.run,
            self.reaper.run,
            self._publish_cards,
            *self.companions,
        ):
            self._services.append(asyncio.create_task(service()))

    def oldest_started(self) -> float | None:
        """When the oldest run of this process started, by `time.monotonic`; None without one."""
        return min((attempt.started_at for attempt in self.attempts.values()), default=None)

    def drain(self, seconds: float | None = None) -> None:
        """Claim no more; tell running handlers; release them after `seconds`."""
        seconds = self.settings.drain_seconds if seconds is None else seconds
        logger.info("draining: %d runs have %g s to finish", len(self.attempts), seconds)
        self.draining = True
        for attempt in list(self.attempts.values()):
            attempt.begin_shutdown()
        # Of two orders the faster one counts, in whatever order they come.
        self._release_at = min(self._release_at, self.home.time() + seconds)
        if self._release is not None:
            self._release.cancel()
        self._release = self.home.call_at(self._release_at, self._release_all)

    async def stop(self) -> None:
        """End the services and close the connections; the directory forgets the process."""
        self.draining = True
        services = (*self._services, *self._looks)
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        with suppress(FleetUnavailableError, OSError):
            async with asyncio.timeout(2):
                await self.ledger.directory.withdraw(self.name, self._cards)
        await self.publisher.close()
        await self.ledger.close()

    def begin(self, attempt: Attempt) -> None:
        """Watch over an attempt; any thread. An older one of its run here has lost its lease."""
        former = self.attempts.get(attempt.run_id)
        if former is not None:
            former.lose()
        self.attempts[attempt.run_id] = attempt
        if self.draining:
            attempt.begin_shutdown()
        if self._releasing:
            attempt.request_stop(SHUTS_DOWN)
        if (asked := self._early_cancels.pop(attempt.run_id, None)) is not None:
            attempt.cancel(*asked)

    def end(self, attempt: Attempt) -> None:
        """The attempt is over; any thread."""
        if self.attempts.get(attempt.run_id) is attempt:
            del self.attempts[attempt.run_id]

    def _release_all(self) -> None:
        self._releasing = True
        for attempt in list(self.attempts.values()):
            attempt.request_stop(SHUTS_DOWN)

    async def _listen(self) -> None:
        for prefix in self.ledger.keys.prefixes():
            await self._listen_on(f"{prefix}worker:{self.name}")

    async def _listen_on(self, channel: str) -> None:
        outage = Outage(logger, "no orders are heard yet")
        while True:
            try:
                await self.ledger.channels.listen(channel, self._obey)
            except OSError as error:
                outage.begin(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                outage.end()
                return

    def _obey(self, message: bytes | None) -> None:
        """Carry out an order; None means that orders may have been missed."""
        if message is None:
            self._heartbeat.soon()
            return
        order, _, rest = message.decode(errors="replace").partition(" ")
        if order == "cancel":
            look = asyncio.create_task(self._cancel_if_asked(rest.partition(" ")[0]))
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)

    async def _cancel_if_asked(self, run_id: str) -> None:
        """Whoever may publish can order anything: the record tells who shall end, and why."""
        try:
            asked = await self.runs.cancel_asked(run_id)
        except (FleetUnavailableError, OSError):
            self._heartbeat.soon()
            return
        if asked is None:
            return
        # Kept first, looked up then: `begin`, in another thread, does it the other way round.
        self._early_cancels[run_id] = asked
        if (attempt := self.attempts.get(run_id)) is not None:
            self._early_cancels.pop(run_id, None)
            attempt.cancel(*asked)
        else:
            self.home.call_later(_EARLY_SECONDS, self._early_cancels.pop, run_id, None)

    async def _publish_cards(self) -> None:
        lifetime = int(self.settings.heartbeat_seconds * _CARD_BEATS * 1000)
        outage = Outage(logger, "the agents cannot be listed in the directory")
        while True:
            try:
                await self.ledger.directory.publish(self.name, self._cards, lifetime)
            except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
                outage.begin(error)
            else:
                outage.end()
            await asyncio.sleep(self.settings.heartbeat_seconds)
