"""The door to the ledger: one object a process (and event loop) that owns the connections."""

from skillfleet_ledger.artifacts import ArtifactStore
from skillfleet_ledger.blocking import BlockingConnection
from skillfleet_ledger.channels import Channels
from skillfleet_ledger.connection import PipelinedConnection
from skillfleet_ledger.directory import Directory
from skillfleet_ledger.queues import Queues
from skillfleet_ledger.refused import RefusedMessages
from skillfleet_ledger.runs import RunStore
from skillfleet_ledger.settings import Settings
from skillfleet_ledger.streams import BLOCK_MS, EventStreams
from skillfleet_ledger.waiting import WaitingReads


class Ledger:
    """All rooms of the ledger. Belongs to the event loop that first uses it; close it there.

    Artifacts have a connection of their own, so that their bulk never delays a heartbeat.
    """

    def __init__(
        self, settings: Settings, *, name: str = "skillfleet", blocking: bool = False
    ) -> None:
        """`blocking`: for threads without an event loop (blocking.py); no streams, no artifacts."""
        self.settings = settings
        self.keys = settings.keyspace
        # Redis refuses names of connections with spaces in them.
        name = "".join(letter if "!" <= letter <= "~" else "-" for letter in name)
        timeout = settings.redis_timeout_seconds
        kind = BlockingConnection if blocking else PipelinedConnection
        self.connection = kind(settings.ledger_url, timeout=timeout, name=name)
        self._bulk = PipelinedConnection(settings.ledger_url, timeout=timeout, name=f"{name}-bulk")
        self._waiting = WaitingReads(
            settings.ledger_url, timeout=timeout + BLOCK_MS / 1000, name=f"{name}-blocking"
        )
        self.runs = RunStore(self.connection, settings)
        self.streams = EventStreams(self.connection, self._waiting, self.runs, settings)
        self.artifacts = ArtifactStore(self._bulk, settings)
        self.directory = Directory(self.connection, settings)
        self.queues = Queues(self.connection, settings)
        self.refused = RefusedMessages(self.connection, settings)
        self.channels = Channels(settings.ledger_url, timeout=timeout, name=name)

    async def close(self) -> None:
        """Close all connections."""
        await self.channels.close()
        await self.connection.close()
        await self._bulk.close()
        await self._waiting.close()
