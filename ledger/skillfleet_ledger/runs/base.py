"""The base of all groups of run operations: the connection, the settings and the key names."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from skillfleet_ledger.keys import Keyspace
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.settings import Settings


class WokenRuns:
    """The hand-over of runs that a script has made ready to the publisher of their messages.

    Without a publisher, they are left to the reaper, which publishes them two seconds later.
    """

    def __init__(self) -> None:
        self.publish: Callable[[Sequence[str]], Coroutine[Any, Any, None]] | None = None
        """Publishes the messages of runs, by their ids; never raises."""

    async def hand_over(self, run_ids: Sequence[bytes]) -> None:
        """Have the runs published, given the ids in a script's reply."""
        if run_ids and self.publish is not None:
            await self.publish([run_id.decode() for run_id in run_ids])


class RunOperations:
    """Operations on runs. Each is safe to repeat; all raise FleetUnavailableError."""

    def __init__(
        self, connection: Connection, settings: Settings, woken: WokenRuns | None = None
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._keys: Keyspace = settings.keyspace
        self._woken = woken or WokenRuns()

    def _key(self, kind: str, run_id: str) -> str:
        """Return one of the run's keys, such as its record `run`."""
        return f"{self._keys.prefix(run_id)}{kind}:{run_id}"

    def _run(self, script: str, run_id: str, *args: Any, key: str | None = None) -> Awaitable[Any]:
        """Call a script about a run; `key` is the second key that some scripts take."""
        keys = (self._keys.prefix(run_id),) if key is None else (self._keys.prefix(run_id), key)
        return run_script(self._connection, script, keys, (run_id, *args))
