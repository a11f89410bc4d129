"""Counts of the runs in each queue, for scaling and monitoring."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from skillfleet_ledger.redis_client.clock import redis_now_ms
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.settings import Settings

_SOON_MS = 30_000
_MOST_DUE = 10_000


class QueueStats(BaseModel):
    """The counts of one queue: runs that wait for a worker, are running, or are delayed.

    `due` is what will need a worker within half a minute, so that a fleet that is scaled to zero
    has one in time: delays that end, waits of parked runs that expire, schedules. `unserved` ones
    wait for a worker that serves their skill. Runs that are held for another reason are not
    counted: a worker more would not help them.
    """

    model_config = ConfigDict(frozen=True)

    queue: str
    queued: int = 0
    running: int = 0
    delayed: int = 0
    unserved: int = 0
    due: int = 0
    oldest_age_seconds: float = 0.0
    """The waiting time of the first waiting run."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented order
    @property
    def demand(self) -> int:
        """The runs that need a worker: waiting, unserved, running and due ones."""
        return self.queued + self.unserved + self.running + self.due

    def plus(self, other: "QueueStats") -> "QueueStats":
        """Return the sum with the counts of another shard or queue, under this one's name."""
        return QueueStats(
            queue=self.queue,
            queued=self.queued + other.queued,
            running=self.running + other.running,
            delayed=self.delayed + other.delayed,
            unserved=self.unserved + other.unserved,
            due=self.due + other.due,
            oldest_age_seconds=max(self.oldest_age_seconds, other.oldest_age_seconds),
        )


class WaitingStats(BaseModel):
    """The counts of runs that wait for input, over all queues."""

    model_config = ConfigDict(frozen=True)

    parked: int = 0
    """Runs that wait without a worker."""
    oldest_age_seconds: float = 0.0
    """How long the first of them has been parked."""
    open_waits: int = 0
    """Open waits that expire, parked or not: questions, messages, timers."""


class Queues:
    """Reader of queue counts. It reads no runs, so its cost does not grow with their number."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._keys = settings.keyspace

    async def stats(self, known: Iterable[str] = ()) -> list[QueueStats]:
        """Return all queues with waiting or delayed runs, and those `known`, by name.

        Raises FleetUnavailableError.
        """
        total = {queue: QueueStats(queue=queue) for queue in known}
        now_ms = await redis_now_ms(self._connection)
        for prefix in self._keys.prefixes():
            for stat in await self._shard(prefix, list(total), now_ms):
                total[stat.queue] = total.get(stat.queue, QueueStats(queue=stat.queue)).plus(stat)
        return [total[queue] for queue in sorted(total)]

    async def waiting(self) -> WaitingStats:
        """Return the counts of runs that wait for input; raises FleetUnavailableError."""
        now_ms = await redis_now_ms(self._connection)
        parked, waits, oldest = 0, 0, 0.0
        for prefix in self._keys.prefixes():
            count, first, timers = await asyncio.gather(
                self._connection.execute("ZCARD", f"{prefix}parked"),
                self._connection.execute("ZRANGE", f"{prefix}parked", 0, 0, "WITHSCORES"),
                self._connection.execute("ZCARD", f"{prefix}timers"),
            )
            parked, waits = parked + int(count), waits + int(timers)
            oldest = max(oldest, _age(first, now_ms))
        return WaitingStats(parked=parked, oldest_age_seconds=oldest, open_waits=waits)

    async def _shard(self, prefix: str, known: list[str], now_ms: float) -> list[QueueStats]:
        names, delays, held, alarms = await asyncio.gather(
            self._connection.execute("SMEMBERS", f"{prefix}queues"),
            self._connection.execute("HGETALL", f"{prefix}delays"),
            self._connection.execute("HGETALL", f"{prefix}unserved"),
            self._connection.execute(
                *("ZRANGEBYSCORE", f"{prefix}alarms", "-inf", now_ms + _SOON_MS),
                *("LIMIT", 0, _MOST_DUE),
            ),
        )
        due = Counter(alarm.decode().partition("|")[0] for alarm in alarms)
        delayed = Counter(dict(_counts(delays)))
        unserved: Counter[str] = Counter()
        for name, count in _counts(held):
            unserved[name.rpartition("|")[2]] += count
        ready = sorted(name.decode() for name in names)
        queues = {*known, *delayed, *unserved, *due, *(name.rpartition(":")[0] for name in ready)}
        running = await asyncio.gather(
            *(self._connection.execute("SCARD", f"{prefix}running:{queue}") for queue in queues)
        )
        waiting = await asyncio.gather(*(self._ready(prefix, name, now_ms) for name in ready))
        return [
            *waiting,
            *(
                QueueStats(
                    queue=queue,
                    running=int(count),
                    delayed=delayed[queue],
                    unserved=unserved[queue],
                    due=due[queue],
                )
                for queue, count in zip(queues, running, strict=True)
            ),
        ]

    async def _ready(self, prefix: str, name: str, now_ms: float) -> QueueStats:
        key = f"{prefix}ready:{name}"
        count, first = await asyncio.gather(
            self._connection.execute("ZCARD", key),
            self._connection.execute("ZRANGE", key, 0, 0, "WITHSCORES"),
        )
        return QueueStats(
            queue=name.rpartition(":")[0],
            queued=int(count),
            oldest_age_seconds=_age(first, now_ms),
        )


def _counts(flat: list[bytes]) -> list[tuple[str, int]]:
    return [(flat[i].decode(), int(flat[i + 1])) for i in range(0, len(flat), 2)]


def _age(first: list[Any], now_ms: float) -> float:
    return max(0.0, (now_ms - float(first[1])) / 1000) if first else 0.0
