"""The ledger's side of the reaper: rounds over a shard, and notes about what they found."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger.keys import BROKER_SEPARATOR
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations

_CANVAS_MS = 20_000


@dataclass(frozen=True)
class ReapOptions:
    """The options of one reaper round; times in milliseconds."""

    lock_ttl_ms: int = 5000
    limit: int = 200
    grace_ms: int = 10_000
    empty_queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReapResult:
    """The findings of one reaper round. `to_end` holds run id, token and reason."""

    to_publish: tuple[str, ...]
    to_end: tuple[tuple[str, int, str], ...]
    counts: dict[str, int]
    more: bool = False
    """True when another round is due at once: this one reached a limit."""
    to_clean_up: tuple[str, ...] = ()
    """Ended and cancelled runs whose children still have to be cancelled
    (`Cancellation.clean_up`)."""
    restarted: tuple[str, ...] = ()
    """Those runs in `to_publish` whose last attempt was lost with its worker."""


class Maintenance(RunOperations):
    """Finds what is overdue, lost or left over; for the reaper."""

    async def reap(self, shard: int, worker: str, options: ReapOptions) -> ReapResult | None:
        """Do one round of the reaper over a shard; None while another worker is reaper."""
        broker = self._keys.broker_prefix if self._settings.broker_is_ledger else "-"
        payload = orjson.dumps(
            {"state": RunState.QUEUED, "outcome": "lost", "message": "its worker was lost"}
        )
        reply = await run_script(
            self._connection,
            "reap",
            (self._keys.shard_prefix(shard),),
            (
                *(worker, options.lock_ttl_ms, options.limit, options.grace_ms),
                *(broker, BROKER_SEPARATOR, payload, *options.empty_queues),
            ),
        )
        if reply is None:
            return None
        publish, end, counts, more, cleanups, restarted = reply
        return ReapResult(
            tuple(run_id.decode() for run_id in publish),
            tuple(
                (end[i].decode(), int(end[i + 1]), end[i + 2].decode())
                for i in range(0, len(end), 3)
                # A record may hold invalid values.
                if end[i + 1].isdigit()
            ),
            {counts[i].decode(): int(counts[i + 1]) for i in range(0, len(counts), 2)},
            more=bool(more),
            to_clean_up=tuple(run_id.decode() for run_id in cleanups),
            restarted=tuple(run_id.decode() for run_id in restarted),
        )

    async def published(self, shard: int, run_ids: Sequence[str]) -> None:
        """Note that the messages of runs which a round of the reaper returned are on the broker.

        What is not noted comes again two seconds later, in the round of any worker.
        """
        if run_ids:
            key = f"{self._keys.shard_prefix(shard)}unpublished"
            await self._connection.execute("ZREM", key, *run_ids)

    async def waiting_queues(self, shard: int) -> list[str]:
        """Return the names of the queues in which runs of a shard wait for a worker."""
        key = f"{self._keys.shard_prefix(shard)}queues"
        names = await self._connection.execute("SMEMBERS", key)
        return sorted({name.decode().rpartition(":")[0] for name in names})

    async def take_canvas(self, run_id: str) -> bool:
        """Take over the canvas of an ended run; False where it went on, or was taken lately."""
        return bool(await self._run("take_canvas", run_id, _CANVAS_MS))

    async def finish_canvas(self, run_id: str) -> None:
        """Note that what is linked to an ended run, or chained after it, has gone on."""
        await self._connection.execute("ZREM", f"{self._keys.prefix(run_id)}canvases", run_id)
