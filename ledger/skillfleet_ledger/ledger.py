"""The ledger: one object per process (and event loop) that owns the connections."""

from functools import partial

from skillfleet_ledger.artifacts import ArtifactStore
from skillfleet_ledger.dead_letters import DeadLetters
from skillfleet_ledger.directory import Directory
from skillfleet_ledger.queues import Queues
from skillfleet_ledger.redis_client.blocking_reads import BlockingReadPool
from skillfleet_ledger.redis_client.connection import PipelinedConnection
from skillfleet_ledger.redis_client.loops import LoopOwner
from skillfleet_ledger.redis_client.protocol import connection_name
from skillfleet_ledger.redis_client.pubsub import PubSub
from skillfleet_ledger.runs.base import WokenRuns
from skillfleet_ledger.runs.budgets import Budgets
from skillfleet_ledger.runs.cancellation import Cancellation
from skillfleet_ledger.runs.grants import Grants
from skillfleet_ledger.runs.held import HeldRuns
from skillfleet_ledger.runs.journals import Journals
from skillfleet_ledger.runs.leases import Leases
from skillfleet_ledger.runs.maintenance import Maintenance
from skillfleet_ledger.runs.objects import RunObjects, object_store
from skillfleet_ledger.runs.queries import Queries
from skillfleet_ledger.runs.schedules import Schedules
from skillfleet_ledger.runs.search import Search
from skillfleet_ledger.runs.sessions import Sessions
from skillfleet_ledger.runs.submissions import Submissions
from skillfleet_ledger.runs.waits import Waits
from skillfleet_ledger.runs.workspaces import Workspaces
from skillfleet_ledger.settings import Settings
from skillfleet_ledger.streams import BLOCK_MS, EventStreams


class Ledger:
    """All stores of the ledger. Bound to the first event loop that uses it; close it there.

    Another loop is refused (WrongLoopError), unless the first one is closed by then: the ledger
    starts anew on it. Artifacts have their own connection, so that bulk data never delays a
    heartbeat. `name` is what its connections are called in Redis. A `patient` ledger treats a
    missing permission or password as an outage, for processes that keep running until an
    operator corrects it; otherwise such an error is raised at once.
    """

    def __init__(
        self, settings: Settings, *, name: str = "skillfleet", patient: bool = False
    ) -> None:
        self.settings = settings
        self.keys = settings.keyspace
        name = connection_name(name)
        timeout = settings.redis_timeout_seconds
        url, owner = settings.ledger_url, LoopOwner()
        pipelined = partial(PipelinedConnection, url, timeout=timeout, patient=patient, owner=owner)
        self.connection = pipelined(name=name)
        self._bulk = pipelined(name=f"{name}-bulk")
        self._blocking_reads = BlockingReadPool(
            url,
            timeout=timeout + BLOCK_MS / 1000,
            name=f"{name}-blocking",
            patient=patient,
            owner=owner,
        )
        self.pubsub = PubSub(url, timeout=timeout, name=name, patient=patient, owner=owner)

        store = object_store(settings)
        self.objects = None if store is None else RunObjects(self._bulk, settings, store)
        """Objects outside of Redis; None without an object store."""
        self.woken = WokenRuns()
        """Publishes the runs that a script has made ready; set by who has a publisher."""
        self.submissions = Submissions(self.connection, settings, self.woken)
        self.leases = Leases(self.connection, settings, self.woken)
        self.queries = Queries(self.connection, settings)
        self.search = Search(self.connection, settings)
        self.cancellation = Cancellation(self.connection, settings, self.queries, self.woken)
        self.budgets = Budgets(self.connection, settings)
        self.maintenance = Maintenance(self.connection, settings)
        self.journals = Journals(self.connection, settings, self.objects)
        self.waits = Waits(self.connection, settings)
        self.sessions = Sessions(self.connection, settings)
        self.workspaces = Workspaces(self.connection, settings)
        self.held = HeldRuns(self.connection, settings, self.woken)
        self.schedules = Schedules(self.connection, settings)
        self.streams = EventStreams(self.connection, self._blocking_reads, settings)
        self.artifacts = ArtifactStore(self._bulk, settings, self.objects)
        self.grants = Grants(self.connection, settings)
        self.directory = Directory(self.connection, settings)
        self.queues = Queues(self.connection, settings)
        self.dead_letters = DeadLetters(self.connection, settings)

    async def close(self) -> None:
        """Close all connections; pending calls get FleetClosedError. Raises WrongLoopError."""
        # Closed first: listeners, called when pub/sub closes, must find the connection closed.
        await self.connection.close()
        await self._bulk.close()
        await self._blocking_reads.close()
        await self.pubsub.close()
