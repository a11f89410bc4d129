"""Checks of the fleet itself: workers, queues, stuck runs, dead letters."""

from skillfleet_cli.doctor import Finding, Level
from skillfleet_cli.output import duration
from skillfleet_ledger import Ledger
from skillfleet_ledger.queues import QueueStats

_LONG_WAIT_SECONDS = 60.0
_MOST_NAMED = 5
_LAPSED_SECONDS = 10.0
"""The reaper restarts a run within seconds after its lease expires."""


async def examine_fleet(ledger: Ledger) -> list[Finding]:
    """Return findings about workers, queues, stuck runs and dead letters."""
    workers = await ledger.directory.workers()
    agents = await ledger.directory.agents()
    served = {agent.queue for agent in agents}
    queues = await ledger.queues.stats(sorted(served))
    return [
        _workers(workers),
        _agents(sorted({agent.name for agent in agents})),
        await _reaper(ledger, workers),
        *(_queue(stats, stats.queue in served) for stats in queues),
        await _stuck(ledger),
        await _dead(ledger),
    ]


def _workers(workers: list[str]) -> Finding:
    if workers:
        shown = ", ".join(sorted(workers)[:_MOST_NAMED])
        more = ", …" if len(workers) > _MOST_NAMED else ""
        return Finding("workers", Level.OK, f"{len(workers)} live: {shown}{more}")
    return Finding("workers", Level.WARNING, "none", "start one: skillfleet worker MODULE")


def _agents(names: list[str]) -> Finding:
    if names:
        return Finding("agents", Level.OK, ", ".join(names))
    return Finding("agents", Level.WARNING, "none served", "start a worker with their module")


async def _reaper(ledger: Ledger, workers: list[str]) -> Finding:
    prefixes = ledger.keys.prefixes()
    held = [await ledger.connection.execute("EXISTS", f"{prefix}reaper") for prefix in prefixes]
    if all(held):
        return Finding("reaper", Level.OK, "active")
    if not workers:
        waiting = await _waiting(ledger, prefixes)
        if not waiting:
            return Finding("reaper", Level.OK, "starts with the first worker")
        text = f"none: nothing wakes {', '.join(waiting)}"
        return Finding("reaper", Level.WARNING, text, "a worker is the reaper, too: start one")
    advice = "look for 'the reaper' in the workers' logs; a restart of a worker elects another"
    text = "none, although there are live workers"
    if waiting := await _waiting(ledger, prefixes):
        text += f": nothing wakes {', '.join(waiting)}"
    return Finding("reaper", Level.WARNING, text, advice)


async def _waiting(ledger: Ledger, prefixes: list[str]) -> list[str]:
    """Return the numbers of what only the reaper wakes when its time has come."""
    found = []
    for key, one, several in (
        ("timers", "wait that expires", "waits that expire"),
        ("delayed", "delayed run", "delayed runs"),
        ("schedules", "schedule", "schedules"),
    ):
        count = 0
        for prefix in prefixes:
            count += await ledger.connection.execute("ZCARD", f"{prefix}{key}")
        if count:
            found.append(f"{count} {one if count == 1 else several}")
    return found


def _queue(stats: QueueStats, served: bool) -> Finding:  # noqa: FBT001 - a fact of the queue
    text = f"{stats.queued} queued, {stats.running} running"
    if stats.queued:
        text += f", the oldest for {duration(stats.oldest_age_seconds)}"
    name = f"queue {stats.queue}"
    if stats.queued and not served:
        advice = f"no live worker serves its agents: skillfleet worker MODULE -Q {stats.queue}"
        return Finding(name, Level.WARNING, text, advice)
    if stats.oldest_age_seconds > _LONG_WAIT_SECONDS:
        advice = "more workers, or a higher --concurrency; do the workers' logs show errors?"
        return Finding(name, Level.WARNING, text, advice)
    return Finding(name, Level.OK, text)


async def _stuck(ledger: Ledger) -> Finding:
    limit = await ledger.directory.now_ms() - int(_LAPSED_SECONDS * 1000)
    lapsed = 0
    for prefix in ledger.keys.prefixes():
        lapsed += await ledger.connection.execute("ZCOUNT", f"{prefix}leases", "-inf", limit)
    if not lapsed:
        return Finding("stuck", Level.OK, "no run is held by a lost worker")
    text = f"{lapsed} runs are marked as running, but their worker is gone"
    return Finding("stuck", Level.WARNING, text, "any live worker restarts them: start one")


async def _dead(ledger: Ledger) -> Finding:
    refused = await ledger.connection.execute("XLEN", f"{ledger.keys.shard_prefix(0)}dead_letters")
    dead = 0
    for prefix in ledger.keys.prefixes():
        dead += await ledger.connection.execute("ZCARD", f"{prefix}index:state:dead:all")
    if not refused and not dead:
        return Finding("dead", Level.OK, "no dead runs, no dead letters")
    text = f"{dead} dead runs, {refused} dead letters"
    return Finding("dead", Level.WARNING, text, "list them: skillfleet dead list")
