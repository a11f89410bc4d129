"""Grants of workspace access: which run installed one, and which ones are revoked."""

from collections.abc import Sequence
from typing import Final

from skillfleet.contracts.grants import GRANT_SPARE_SECONDS, MOST_GRANT_SECONDS
from skillfleet.ports.grants import GrantRegister
from skillfleet_ledger.redis_client.clock import redis_now_ms
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.queries import unknown_run

REVOCATION_MS: Final = (MOST_GRANT_SECONDS + GRANT_SPARE_SECONDS) * 1000
"""The time for which a revocation of all grants of a scope is noted: longer than they last."""

_REVOKED = "revoked"


class Grants(RunOperations, GrantRegister):
    """The register in Redis. Each note has a time to live, and all of a scope are on one shard."""

    async def epoch(self, scope: str) -> int:
        """See `GrantRegister.epoch`: the time of the last revocation, by Redis' clock."""
        return int(await self._connection.execute("GET", self._key("grant_epoch", scope)) or 0)

    async def bind(self, scope: str, grant_id: str, run_id: str, seconds: float) -> str:
        """See `GrantRegister.bind`. A revoked grant belongs to no run."""
        key = self._note(scope, grant_id)
        _, owner = await self._connection.execute_all(
            ("SET", key, run_id, "NX", "PX", _millis(seconds)), ("GET", key)
        )
        return owner.decode() if owner else ""

    async def state(self, scope: str, grant_ids: Sequence[str]) -> tuple[int, bool]:
        """See `GrantRegister.state`."""
        epoch, *notes = await self._connection.execute(
            "MGET",
            self._key("grant_epoch", scope),
            *(self._note(scope, each) for each in grant_ids),
        )
        return int(epoch or 0), _REVOKED.encode() in notes

    async def revoke(self, scope: str, grant_id: str, seconds: float) -> None:
        """See `GrantRegister.revoke`."""
        key = self._note(scope, grant_id)
        await self._connection.execute("SET", key, _REVOKED, "PX", _millis(seconds))

    async def revoke_all(self, scope: str) -> None:
        """See `GrantRegister.revoke_all`. The reaper does the same for a forgotten session."""
        # Redis' clock may have been set back since the last revocation.
        epoch = max(await redis_now_ms(self._connection), await self.epoch(scope) + 1)
        await self._connection.execute(
            "SET", self._key("grant_epoch", scope), epoch, "PX", REVOCATION_MS
        )

    async def revoke_of_run(self, run_id: str) -> None:
        """Revoke all grants of the run's tree, and of its session; raises UnknownRunError."""
        agent, root = await self._connection.execute(
            "HMGET", self._key("run", run_id), "agent", "root"
        )
        if agent is None:
            raise unknown_run(run_id)
        tree = root.decode() if root else run_id
        await self.revoke_all(tree)
        session = await self._connection.execute("HGET", self._key("run", tree), "session")
        if session:
            await self.revoke_all(session.decode())

    def _note(self, scope: str, grant_id: str) -> str:
        return f"{self._key('grant', scope)}:{grant_id}"


def _millis(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
