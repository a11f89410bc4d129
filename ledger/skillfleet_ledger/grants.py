"""Grants of workspace access: which run installed one, and which ones are revoked."""

from collections.abc import Sequence

from skillfleet.ports.grants import GrantRegister
from skillfleet_ledger.redis_client.clock import redis_now_ms
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.settings import Settings

_REVOKED = "revoked"


class Grants(GrantRegister):
    """The register in Redis. Each note has a time to live, and all of a scope are on one shard."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._keys = settings.keyspace

    async def epoch(self, scope: str) -> int:
        """See `GrantRegister.epoch`: the time of the last revocation, by Redis' clock."""
        return int(await self._connection.execute("GET", self._epoch_key(scope)) or 0)

    async def bind(self, scope: str, grant_id: str, run_id: str, seconds: float) -> str:
        """See `GrantRegister.bind`. A revoked grant belongs to no run."""
        key = self._key(scope, grant_id)
        _, owner = await self._connection.execute_all(
            ("SET", key, run_id, "NX", "PX", _millis(seconds)), ("GET", key)
        )
        return owner.decode() if owner else ""

    async def state(self, scope: str, grant_ids: Sequence[str]) -> tuple[int, bool]:
        """See `GrantRegister.state`."""
        epoch, *notes = await self._connection.execute(
            "MGET", self._epoch_key(scope), *(self._key(scope, each) for each in grant_ids)
        )
        return int(epoch or 0), _REVOKED.encode() in notes

    async def revoke(self, scope: str, grant_id: str, seconds: float) -> None:
        """See `GrantRegister.revoke`."""
        key = self._key(scope, grant_id)
        await self._connection.execute("SET", key, _REVOKED, "PX", _millis(seconds))

    async def revoke_all(self, scope: str, seconds: float) -> None:
        """See `GrantRegister.revoke_all`."""
        now = await redis_now_ms(self._connection)
        await self._connection.execute("SET", self._epoch_key(scope), now, "PX", _millis(seconds))

    def _key(self, scope: str, grant_id: str) -> str:
        return f"{self._keys.prefix(scope)}grant:{scope}:{grant_id}"

    def _epoch_key(self, scope: str) -> str:
        return f"{self._keys.prefix(scope)}grant_epoch:{scope}"


def _millis(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
