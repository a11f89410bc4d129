"""One round: a schedule, a load, and the verdict on both."""

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.exceptions import RedisError

from skillfleet_ledger.keys import Keyspace
from tests.chaos.checker import check
from tests.chaos.evidence import Journal, Run, read_messages, read_runs, read_states
from tests.chaos.harness import LEASE_SECONDS, POOLS, Harness
from tests.chaos.load import Load
from tests.chaos.occurrences import Kept, begin, end, occurred
from tests.chaos.orders import draw_orders
from tests.chaos.schedule import Fault, draw
from tests.ledger.audit import audit

RATE = 5.0
GAP_SECONDS = 1.5
_CALM_SECONDS = 1.0
"""How long no run may be under way: what Celery calls after a run is on its way to be one."""


@dataclass(frozen=True)
class Scenario:
    """The parameters of a round; the same numbers make the same round."""

    seed: int
    seconds: float
    rate: float = RATE
    """Orders a second."""
    gap: float = GAP_SECONDS
    """The mean time between two faults."""
    patience: float = 120.0
    """How long the runs may take to their ends once all is healed, in seconds."""
    rabbit: bool = False
    """The broker is a RabbitMQ node."""

    def faults(self) -> list[Fault]:
        return draw(self.seed, self.seconds, len(POOLS) + 1, LEASE_SECONDS, self.gap)


@dataclass(frozen=True)
class Verdict:
    """The report of a round: problems, actions, and the workers' output."""

    problems: list[str]
    summary: str
    logs: str
    journal: str

    def tails(self, lines: int = 40) -> str:
        """The last lines of each worker's log."""
        logs = self.logs.split("--- worker")[1:]
        return "\n".join("\n".join(log.splitlines()[-lines:]) for log in logs)


async def run_scenario(scenario: Scenario) -> Verdict:
    """Run one round; everything it started is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="skillfleet-chaos-") as folder:
        journal = Path(folder) / "journal"
        journal.touch()
        async with Harness(rabbit=scenario.rabbit) as harness:
            load = Load(
                harness.proxies[-1].url,
                harness.server.port,
                random.Random(scenario.seed),
                **harness.broker,
            )
            orders = draw_orders(
                random.Random(scenario.seed), str(journal), scenario.seconds, scenario.rate
            )
            first = await begin(load.fleet, str(journal))
            async with asyncio.TaskGroup() as group:
                group.create_task(harness.play(scenario.faults()))
                group.create_task(load.run(orders, scenario.seconds))
            healed = time.monotonic()
            kept = await end(load.fleet, first)
            await load.finish(scenario.patience)
            await asyncio.to_thread(_wait_idle, harness, load, healed + scenario.patience)
            took = time.monotonic() - healed
            await harness.end()
            return await asyncio.to_thread(_judge, harness, load, Journal(journal), took, kept)


def _wait_idle(harness: Harness, load: Load, end: float) -> None:
    """Until no run is queued, running or parked; what a plain client sent may not be a run yet."""
    idle_since = None
    while time.monotonic() < end:
        with suppress(RedisError), harness.server.client() as client:
            if not _idle(client, load, rabbit=harness.rabbit is not None):
                idle_since = None
            elif (idle_since := idle_since or time.monotonic()) + _CALM_SECONDS < time.monotonic():
                return
        time.sleep(0.1)


def _idle(client: redis.Redis, load: Load, *, rabbit: bool) -> bool:
    prefix = Keyspace().shard_prefix(0)
    if any(client.zcard(f"{prefix}{index}") for index in ("leases", "delayed", "parked", "held")):
        return False
    if any(client.zcard(key) for key in client.scan_iter(match=f"{prefix}ready:*")):
        return False
    if rabbit:
        return all(client.exists(f"{prefix}run:{run_id}") for run_id in load.made)
    return not client.llen("celery")


def _judge(
    harness: Harness, load: Load, journal: Journal, took: float, kept: Sequence[Kept]
) -> Verdict:
    keys = Keyspace()
    with harness.server.client() as client:
        runs = read_runs(client, keys)
        messages = read_messages(client) if harness.rabbit is None else ()
        scene = harness.scene(messages, read_states(client, keys))
        problems = [*harness.problems, *load.problems, *audit(client, keys)]
    problems += [*check(runs, journal, load.made, scene), *occurred(runs, kept)]
    summary = f"{_counts(harness, load, runs)}; all at rest {took:.1f} s after the last fault"
    return Verdict(problems, summary, harness.logs(), journal.text)


def _counts(harness: Harness, load: Load, runs: dict[str, Run]) -> str:
    outcomes = [attempt.get("outcome") for run in runs.values() for attempt in run.attempts]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(map(str, outcomes))))
    moments = ", ".join(f"{count} {kind.name.lower()}" for kind, count in (+harness.sprung).items())
    unclaimed = sum(run_id not in runs for run_id in load.made)
    return (
        f"{len(load.made)} orders ({unclaimed} left to the broker), {len(runs)} runs,"
        f" {len(outcomes)} attempts ({counts}), {harness.sprung.total()} faults at a moment"
        f" ({moments}), {load.died} producers died"
    )
