"""`python -m benchmarks.search`: measures the search of runs in a small and in a large ledger.

The ledgers have finished runs of a hundred tenants, and the same number of rare ones. Times are
those of a caller of `AsyncFleet.runs`, snapshots included; processor times hold on a busy
machine, too.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from skillfleet_ledger import Ledger, Settings
from skillfleet_producer import AsyncFleet
from tests.support.valkey import ValkeyServer

TENANTS = 100
BATCH = 1000
FAILED, RARE = 100, 20
"""The failed runs, all of one tenant, and those with the rare tag, in a ledger of any size."""

SEARCHES: dict[str, dict[str, Any]] = {
    "all runs": {},
    "a tag": {"tags": {"tenant": "t7"}},
    "two tags, one rare": {"tags": {"tenant": "t0", "case": "rare"}},
    "a tag and a rare state": {"tags": {"tenant": "t0"}, "state": "failed"},
    "a tag and a state that no run has": {"tags": {"tenant": "t7"}, "state": "dead"},
    "a tag and a state of other runs": {"tags": {"tenant": "t7"}, "state": "failed"},
    "a tag and a common state": {"tags": {"tenant": "t7"}, "state": "succeeded"},
    "running runs": {"state": "running"},
}

console = Console(width=100)


def main(
    small: Annotated[int, typer.Option(min=1000, help="Runs of the small ledger.")] = 20_000,
    large: Annotated[int, typer.Option(min=1000, help="Runs of the large ledger.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=20, help="Pages of each kind.")] = 300,
) -> None:
    """Print the time of a page, at the median and the 95th percentile, in both ledgers."""
    servers = [ValkeyServer("--appendonly", "no", "--save", "") for _ in (small, large)]
    try:
        for server in servers:
            server.start()
        asyncio.run(measure(dict(zip((small, large), servers, strict=True)), rounds))
    finally:
        for server in servers:
            server.close()


async def measure(servers: Mapping[int, ValkeyServer], rounds: int) -> None:
    """Fill both ledgers, then read pages of them in turn."""
    fleets = {}
    for runs, server in servers.items():
        ledger = Ledger(Settings.load(redis_url=server.url))
        began = time.perf_counter()
        await fill(ledger, runs)
        console.print(f"{runs} finished runs written in {time.perf_counter() - began:.0f} s")
        fleets[runs] = AsyncFleet(ledger=ledger)
    columns = [f"{runs} runs: p50, p95; CPU (ms)" for runs in fleets]
    shown = Table("search", *columns, "p95, ratio", "CPU, ratio")
    for name, conditions in SEARCHES.items():
        found = await times(fleets, conditions, rounds)
        cells = [f"{each.p50:.2f}, {each.p95:.2f}; {each.cpu:.2f}" for each in found]
        first, last = found
        shown.add_row(name, *cells, f"{last.p95 / first.p95:.2f}", f"{last.cpu / first.cpu:.2f}")
    console.print(shown)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for fleet in fleets.values():
        await fleet.close()


class Times(NamedTuple):
    """The time of a page, and the processor time of caller and Redis together, milliseconds."""

    p50: float
    p95: float
    cpu: float


async def times(
    fleets: Mapping[int, AsyncFleet], conditions: Mapping[str, Any], rounds: int
) -> list[Times]:
    """Read pages in turn, so that whatever else this machine does disturbs both ledgers alike."""
    taken: dict[int, list[float]] = {runs: [] for runs in fleets}
    used = dict.fromkeys(fleets, 0.0)
    before = {runs: await redis_seconds(fleet) for runs, fleet in fleets.items()}
    for _ in range(rounds):
        for runs, fleet in fleets.items():
            began, processor = time.perf_counter(), time.process_time()
            await fleet.runs(**conditions)
            taken[runs].append((time.perf_counter() - began) * 1000)
            used[runs] += time.process_time() - processor
    found = []
    for runs, fleet in fleets.items():
        redis = await redis_seconds(fleet) - before[runs]
        cpu = (used[runs] + redis) / rounds * 1000
        values = taken[runs]
        found.append(Times(statistics.median(values), statistics.quantiles(values, n=20)[-1], cpu))
    return found


async def redis_seconds(fleet: AsyncFleet) -> float:
    """Return the processor time that the fleet's server has used."""
    text: bytes = await fleet.ledger.connection.execute("INFO", "cpu")
    fields = dict(line.split(":") for line in text.decode().splitlines() if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


async def fill(ledger: Ledger, runs: int) -> None:
    """Write finished runs, a millisecond apart, with the functions that the scripts share."""
    text = (resources.files("skillfleet_ledger") / "scripts" / "common.lua").read_text() + FILL
    for start in range(0, runs, BATCH):
        ids = [ledger.keys.new_id() for _ in range(start, min(start + BATCH, runs))]
        args = (start, TENANTS, runs // FAILED, runs // RARE, *ids)
        await ledger.connection.execute("EVAL", text, 1, ledger.keys.shard_prefix(0), *args)


FILL = """
local first, tenants = tonumber(ARGV[1]), tonumber(ARGV[2])
local fails, rare = tonumber(ARGV[3]), tonumber(ARGV[4])
for i = 5, #ARGV do
  local number, id = first + i - 5, ARGV[i]
  local tags = 'tenant=t' .. number % tenants
  if number % rare == 0 then tags = 'case=rare\\n' .. tags end
  local args = {
    'agent', 'librarian', 'skill', 'survey', 'queue', 'celery', 'priority', 0, 'root', id,
    'args', '{"folder":"."}', 'headers', '{"skillfleet":{"version":1}}', 'max_deliveries', 3,
    'digest', string.rep('0', 32), 'trace', string.rep('0', 32), 'retention', 86400000,
    'tags', tags,
  }
  add_record(id, { agent = 'librarian', tags = tags }, 1790000000000 + number, 0, args, 1)
  local state = number % fails == 0 and 'failed' or 'succeeded'
  local payload, result = '{"state":"' .. state .. '"}', P .. 'result:' .. id
  finish(id, read_for_finish(id), state, 'completed', '', payload, result, '{}')
end
"""
"""Its arguments: number of the first run, tenants, every how many runs one fails and one is rare,
ids of the runs."""


if __name__ == "__main__":
    typer.run(main)
