"""Held runs: queued runs that something keeps back from the workers."""

from collections.abc import Collection

from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.grants import REVOCATION_MS

UNSERVED = "unserved:"
"""How the reason begins of a run that no live worker serves; its task name follows."""
_PAGE = 100


class HeldRuns(RunOperations):
    """Holds runs back and frees them. A held run is queued, but has no message."""

    async def hold_unserved(self, run_id: str, task: str) -> str:
        """Hold a queued run that no live worker serves; its message is to be dropped.

        Returns 'held', or why it need not be held: 'unknown', 'early', or its state. After
        `SKILLFLEET_UNSERVED_SECONDS` the reaper ends it.
        """
        check_ms = int(self._settings.unserved_seconds * 1000)
        reply: bytes = await self._run("hold", run_id, UNSERVED + task, check_ms)
        return reply.decode()

    async def release_served(self, shard: int, tasks: Collection[str]) -> int:
        """Free the runs of a shard that were held until a worker serves their skills.

        `tasks` are the task names that the caller serves. Returns the number of freed runs.
        """
        prefix, freed = self._keys.shard_prefix(shard), 0
        names = await self._connection.execute("HKEYS", f"{prefix}unserved")
        unserved = {name.decode().rpartition("|")[0] for name in names}
        reasons = [UNSERVED + task for task in sorted(unserved.intersection(tasks))]
        while reasons:
            woken = await run_script(self._connection, "release", (prefix,), (_PAGE, *reasons))
            await self._woken.hand_over(woken)
            freed += len(woken)
            if len(woken) < _PAGE:
                break
        return freed

    async def reap(self, shard: int, limit: int = 200) -> list[tuple[str, int]]:
        """Return runs, with their tokens, that waited too long for a worker that serves them.

        Forgets sessions that had no run for long, and revokes their grants. For the reaper, after a
        round in which it held the leader lock.
        """
        prefix = self._keys.shard_prefix(shard)
        kept_ms = int(self._settings.session_retention_seconds * 1000)
        args = (limit, kept_ms, REVOCATION_MS)
        found, woken = await run_script(self._connection, "reap_held", (prefix,), args)
        await self._woken.hand_over(woken)
        return [
            (found[i].decode(), int(found[i + 1]))
            for i in range(0, len(found), 2)
            # A record may hold invalid values.
            if found[i + 1].isdigit()
        ]
