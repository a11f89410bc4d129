"""The door to the ledger: one object a process (and event loop) that owns the connections."""

from functools import partial

from skillfleet_ledger.artifacts import ArtifactStore
from skillfleet_ledger.dead_letters import RefusedMessages
from skillfleet_ledger.directory import Directory
from skillfleet_ledger.queues import Queues
from skillfleet_ledger.redis_client.blocking import BlockingConnection
from skillfleet_ledger.redis_client.blocking_reads import WaitingReads
from skillfleet_ledger.redis_client.connection import PipelinedConnection
from skillfleet_ledger.redis_client.loops import LoopOwner
from skillfleet_ledger.redis_client.pubsub import Channels
from skillfleet_ledger.runs.store import RunStore
from skillfleet_ledger.settings import Settings
from skillfleet_ledger.streams import BLOCK_MS, EventStreams


class Ledger:
    """All rooms of the ledger. Belongs to the event loop that first uses it; close it there.

    Another loop is refused (WrongLoopError), unless the first one is closed by then: the ledger
    starts anew on it. Artifacts have a connection of their own, so that their bulk never delays a
    heartbeat.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str = "skillfleet",
        blocking: bool = False,
        patient: bool = False,
    ) -> None:
        """What kind of ledger it is.

        `blocking`: for threads without an event loop (blocking.py); no streams, no artifacts.
        `patient`: waits for a right or a password that it lacks as for a Redis that is away, for
        processes that run on until somebody puts that right; others hear of it at once.
        """
        self.settings = settings
        self.keys = settings.keyspace
        # Redis refuses names of connections with spaces in them.
        name = "".join(letter if "!" <= letter <= "~" else "-" for letter in name)
        timeout = settings.redis_timeout_seconds
        url, owner = settings.ledger_url, LoopOwner()
        pipelined = partial(PipelinedConnection, url, timeout=timeout, patient=patient, owner=owner)
        self.connection = (
            BlockingConnection(url, timeout=timeout, name=name)
            if blocking
            else pipelined(name=name)
        )
        self._bulk = pipelined(name=f"{name}-bulk")
        self._waiting = WaitingReads(
            url,
            timeout=timeout + BLOCK_MS / 1000,
            name=f"{name}-blocking",
            patient=patient,
            owner=owner,
        )
        self.runs = RunStore(self.connection, settings)
        self.streams = EventStreams(self.connection, self._waiting, self.runs, settings)
        self.artifacts = ArtifactStore(self._bulk, settings)
        self.directory = Directory(self.connection, settings)
        self.queues = Queues(self.connection, settings)
        self.refused = RefusedMessages(self.connection, settings)
        self.channels = Channels(url, timeout=timeout, name=name, patient=patient, owner=owner)

    async def close(self) -> None:
        """Close all connections; what still waits gets FleetClosedError. Raises WrongLoopError."""
        # Who hears from the channels that they are over finds the connection closed.
        await self.connection.close()
        await self._bulk.close()
        await self._waiting.close()
        await self.channels.close()
