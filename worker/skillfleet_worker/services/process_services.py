"""Services of one worker process: commands, heartbeat, reaper, directory and further ones."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from skillfleet.contracts import AgentCard
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.services.heartbeat import Heartbeat
from skillfleet_worker.services.reaper import Reaper

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_WITHDRAW_SECONDS = 2.0
_CARD_HEARTBEATS = 3
"""The heartbeats for which the directory keeps agents of a process that no longer reports."""


class ProcessServices:
    """The services of a process besides running attempts. They run on its home loop."""

    def __init__(self, process: WorkerProcess, cards: Sequence[AgentCard]) -> None:
        self._process = process
        self._cards = tuple(cards)
        self._heartbeat = Heartbeat(
            process.ledger.leases, process.name, process.attempts, process.settings
        )
        self._reaper = Reaper(
            process.ledger, process.publisher, process.name, process.settings, process.show_end
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start all services."""
        for service in (
            self._listen,
            self._heartbeat.run,
            self._reaper.run,
            self._publish_cards,
            *self._process.background_services,
        ):
            self._tasks.add(asyncio.create_task(service()))

    async def stop(self) -> None:
        """Stop all services, remove the agents from the directory and close the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(FleetUnavailableError, OSError):
            async with asyncio.timeout(_WITHDRAW_SECONDS):
                await self._process.ledger.directory.withdraw(self._process.name, self._cards)
        await self._process.close()

    async def _listen(self) -> None:
        for prefix in self._process.ledger.keys.prefixes():
            await self._listen_on(f"{prefix}worker:{self._process.name}")

    async def _listen_on(self, channel: str) -> None:
        outage = Outage(logger, "commands cannot be received yet")
        while True:
            try:
                await self._process.ledger.pubsub.listen(channel, self._on_command)
            except OSError as error:
                outage.begin(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                outage.end()
                return

    def _on_command(self, message: bytes | None) -> None:
        """Carry out a command; None means that commands may have been missed."""
        if message is None:
            self._heartbeat.soon()
            return
        command, _, rest = message.decode(errors="replace").partition(" ")
        if command == "cancel":
            task = asyncio.create_task(self._cancel_as_recorded(rest.partition(" ")[0]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif command == "wake":
            self._process.wake(rest)

    async def _cancel_as_recorded(self, run_id: str) -> None:
        """Cancel a run if its record says so: anyone who reaches Redis can publish a command."""
        try:
            cancellation = await self._process.ledger.queries.cancel_request(run_id)
        except (FleetUnavailableError, OSError):
            self._heartbeat.soon()
            return
        if cancellation is not None:
            self._process.cancel(run_id, *cancellation)

    async def _publish_cards(self) -> None:
        process = self._process
        lifetime = int(process.settings.heartbeat_seconds * _CARD_HEARTBEATS * 1000)
        outage = Outage(logger, "the agents cannot be listed in the directory")
        while True:
            try:
                await process.ledger.directory.publish(process.name, self._cards, lifetime)
                await self._release_unserved()
            except Exception as error:  # noqa: BLE001 - every error may be temporary
                outage.begin(error)
            else:
                outage.end()
            await asyncio.sleep(process.settings.heartbeat_seconds)

    async def _release_unserved(self) -> None:
        """Free the runs that were held until a worker serves their skills.

        At each heartbeat, as a worker without them may hold one while this one registers.
        """
        tasks = {f"{card.name}.{skill.name}" for card in self._cards for skill in card.skills}
        for shard in range(self._process.settings.shards):
            if freed := await self._process.ledger.held.release_served(shard, tasks):
                logger.info("%d runs that no worker served are published", freed)
