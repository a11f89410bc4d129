"""The base of all groups of run operations: the connection, the settings and the key names."""

from collections.abc import Awaitable
from typing import Any

from skillfleet_ledger.keys import Keyspace
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.settings import Settings


class RunOperations:
    """Operations on runs. Each is safe to repeat; all raise FleetUnavailableError."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._keys: Keyspace = settings.keyspace

    def _key(self, kind: str, run_id: str) -> str:
        """Return one of the run's keys, such as its record `run`."""
        return f"{self._keys.prefix(run_id)}{kind}:{run_id}"

    def _run(self, script: str, run_id: str, *args: Any, key: str | None = None) -> Awaitable[Any]:
        """Call a script about a run; `key` is the second key that some scripts take."""
        keys = (self._keys.prefix(run_id),) if key is None else (self._keys.prefix(run_id), key)
        return run_script(self._connection, script, keys, (run_id, *args))
