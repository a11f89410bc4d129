"""How much waits in each queue. Key names and types: skillfleet_ledger.keys."""

from dataclasses import dataclass, replace

from skillfleet_ledger import Ledger


@dataclass(frozen=True)
class QueueStats:
    """One queue: runs that wait, runs that run, and how long the first has waited."""

    queue: str
    waiting: int = 0
    running: int = 0
    oldest_seconds: float = 0.0


async def read_queues(ledger: Ledger, known: list[str]) -> list[QueueStats]:
    """The queues with waiting runs and those `known`, by name, over all shards."""
    now = await ledger.directory.now_ms()
    stats = {queue: QueueStats(queue) for queue in known}
    for prefix in ledger.keys.prefixes():
        entries = await ledger.connection.execute("SMEMBERS", f"{prefix}queues")
        for entry in sorted(member.decode() for member in entries):
            queue = entry.rpartition(":")[0]
            stat = stats.get(queue, QueueStats(queue))
            stats[queue] = await _with_ready(ledger, f"{prefix}ready:{entry}", now, stat)
        for queue, stat in stats.items():
            running = await ledger.connection.execute("SCARD", f"{prefix}running:{queue}")
            stats[queue] = replace(stat, running=stat.running + int(running))
    return [stats[queue] for queue in sorted(stats)]


async def _with_ready(ledger: Ledger, key: str, now_ms: int, stat: QueueStats) -> QueueStats:
    count = int(await ledger.connection.execute("ZCARD", key))
    first = await ledger.connection.execute("ZRANGE", key, 0, 0, "WITHSCORES")
    age = max(0.0, (now_ms - float(first[1])) / 1000) if first else 0.0
    return replace(stat, waiting=stat.waiting + count, oldest_seconds=max(stat.oldest_seconds, age))
