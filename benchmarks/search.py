"""`python -m benchmarks.search`: measures the search of runs in a small and in a large ledger.

The ledgers have finished runs of a hundred tenants; one run in a thousand failed, one in ten
thousand has a rare tag. Times are those of a caller of `AsyncFleet.runs`, snapshots included.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from skillfleet.contracts import RunState
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.celery_format import RunEnd
from skillfleet_ledger.runs.records import Submission
from skillfleet_producer import AsyncFleet
from tests.support.valkey import ValkeyServer

TASK = "librarian.survey"
TENANTS = 100
BATCH = 500
FAILS, RARE = 1000, 10_000
"""One run of so many fails, and has the rare tag."""

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
    shown = Table("search", *(f"{runs} runs: p50, p95 (ms)" for runs in fleets), "p95, ratio")
    for name, conditions in SEARCHES.items():
        times: dict[int, list[float]] = {runs: [] for runs in fleets}
        # In turn, so that whatever else this machine does disturbs both alike.
        for _ in range(rounds):
            for runs, fleet in fleets.items():
                began = time.perf_counter()
                await fleet.runs(**conditions)
                times[runs].append((time.perf_counter() - began) * 1000)
        found = {runs: statistics.quantiles(values, n=20)[-1] for runs, values in times.items()}
        cells = [f"{statistics.median(times[runs]):.2f}, {found[runs]:.2f}" for runs in fleets]
        first, last = found.values()
        shown.add_row(name, *cells, f"{last / first:.2f}")
    console.print(shown)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for fleet in fleets.values():
        await fleet.close()


async def fill(ledger: Ledger, runs: int) -> None:
    """Write finished runs."""
    for start in range(0, runs, BATCH):
        batch = [submission(ledger, number) for number in range(start, min(start + BATCH, runs))]
        await ledger.submissions.submit_many([(new, b"") for new in batch])
        await asyncio.gather(*(end(ledger, new) for new in batch))


def submission(ledger: Ledger, number: int) -> Submission:
    """Return the run with this number."""
    tags = {"tenant": f"t{number % TENANTS}"}
    if number % RARE == 0:
        tags["case"] = "rare"
    return Submission(
        id=ledger.keys.new_id(),
        agent="librarian",
        skill="survey",
        queue="celery",
        args=b'{"folder":"."}',
        headers=b"{}",
        digest="0" * 32,
        retention_ms=86_400_000,
        max_deliveries=3,
        tags=tags | {"number": str(number % FAILS)},
    )


async def end(ledger: Ledger, new: Submission) -> None:
    """End a run; those whose number is a multiple of `FAILS` fail."""
    failed = new.tags["number"] == "0"
    state = RunState.FAILED if failed else RunState.SUCCEEDED
    code = "skill_error" if failed else "completed"
    await ledger.leases.end_unclaimed(new.id, TASK, RunEnd(state, code))


if __name__ == "__main__":
    typer.run(main)
