"""Measures what docs/guarantees.md states: `python -m tests.chaos.figures`; prints JSON.

Time to recovery: from the SIGKILL of a worker (or of a prefork child) to the first line that the
run's next attempt writes. Cost of a lease: one renewal of many leases, as a worker makes three
times in a lease.
"""

import asyncio
import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from skillfleet_ledger import Ledger, Settings
from skillfleet_producer import Fleet, RunHandle
from tests.chaos.evidence import Journal
from tests.ledger.helpers import LONG_MS, submission
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

KILLS = 6
LEASES = 1000
RENEWALS = 200


def main() -> None:
    """Measure and print."""
    found = {
        "machine": [platform.machine(), f"{os.cpu_count()} cores", platform.python_version()],
        "seconds from a worker's SIGKILL to the next attempt": _figures(_recoveries("loop")),
        "seconds from a child's SIGKILL to the next attempt": _figures(_recoveries("prefork")),
        f"renewal of {LEASES} leases": asyncio.run(_renewals()),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def _figures(values: list[float]) -> dict[str, float]:
    rounded = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in rounded.items()} | {"kills": len(values)}


def _recoveries(pool: str) -> list[float]:
    """Kill the worker that executes a run, again and again; the default settings."""
    server = ValkeyServer()
    with ExitStack() as stack:
        stack.callback(server.close)
        server.start()
        workers = [FleetWorker(server, "tests.chaos.skills", pool=pool) for _ in range(2)]
        for worker in workers:
            stack.callback(worker.close)
            worker.start()
        fleet = stack.enter_context(Fleet(server.url))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        return [_recovery(fleet, workers, Path(folder) / str(n)) for n in range(KILLS)]


def _recovery(fleet: Fleet, workers: list[FleetWorker], journal: Path) -> float:
    run = fleet.enqueue("chaos.sleep", {"journal": str(journal), "seconds": 600})
    wait_until(lambda: run.status().events >= 2, what="the run to execute")
    time.sleep(random.uniform(0, 5))  # somewhere within the lease's renewals
    pid = int(str(run.status().worker).partition(":")[2].partition("-")[0])
    killed = time.monotonic_ns()
    victim = next(one for one in workers if pid in (one.pid, *one.children()))
    if pid == victim.pid:
        victim.kill()
    else:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: run.status().attempt == 2, 60, "the second attempt")
    wait_until(lambda: len(Journal(journal).executions[run.id]) == 2, what="its first line")
    second = Journal(journal).executions[run.id][1].first
    _end(run)
    if pid == victim.pid:
        victim.log.write_text("")
        victim.start()
    return (second - killed) / 1e9


def _end(run: RunHandle) -> None:
    run.cancel("measured")
    wait_until(lambda: run.status().state.terminal, what="the end of the run")


async def _renewals() -> dict[str, Any]:
    server = ValkeyServer()
    server.start()
    ledger = Ledger(Settings.load(redis_url=server.url))
    try:
        tokens = dict([await _lease(ledger) for _ in range(LEASES)])
        before, cpu, began = await _server(ledger), time.process_time(), time.perf_counter()
        for _ in range(RENEWALS):
            await ledger.leases.renew("measured", LONG_MS, tokens, timeout=10)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        after = await _server(ledger)
    finally:
        await ledger.close()
        server.close()
    return {
        "round trips": (after["commands"] - before["commands"]) / RENEWALS,
        "ms until the answer": round(took / RENEWALS * 1000, 2),
        "ms of the worker's CPU": round(cpu / RENEWALS * 1000, 2),
        "ms of Redis's CPU": round((after["cpu"] - before["cpu"]) / RENEWALS * 1000, 2),
    }


async def _lease(ledger: Ledger) -> tuple[str, int]:
    new = submission()
    await ledger.submissions.submit(new)
    claim = await ledger.leases.claim(new.id, "measured", uuid.uuid4().hex, LONG_MS, None)
    return new.id, claim.token


async def _server(ledger: Ledger) -> dict[str, float]:
    info = (await ledger.connection.execute("INFO", "everything")).decode()
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    calls = [value for name, value in lines.items() if name == "cmdstat_evalsha"]
    return {
        "cpu": float(lines["used_cpu_user"]) + float(lines["used_cpu_sys"]),
        "commands": float(calls[0].partition("calls=")[2].partition(",")[0]) if calls else 0.0,
    }


if __name__ == "__main__":
    main()
