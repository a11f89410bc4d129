"""`python -m benchmarks`: rounds of all workloads, interleaved between the systems."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import cpu_seconds, describe, resident_mib
from benchmarks.systems import PlainCelery, Skillfleet, System
from tests.support.valkey import ValkeyServer

Figures = dict[str, dict[str, list[float]]]

CONCURRENCY = 100
SLEEPERS = 500
LATENCIES = 200
UNITS = {
    "enqueue, one call each": "1/s",
    "enqueue, batch": "1/s",
    "runs, drained": "1/s",
    "runs, drained: worker CPU": "ms/run",
    "submit to start, p50": "ms",
    "submit to start, p99": "ms",
    "submit to result, p50": "ms",
    "submit to result, p99": "ms",
    "500 runs awaiting 1 s": "s",
    "500 runs awaiting 1 s: memory": "MiB",
    "events of one run to a live reader": "1/s",
}

console = Console()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each workload runs.")] = 3,
    runs: Annotated[int, typer.Option(min=100, help="No-op runs a round.")] = 2000,
    events: Annotated[int, typer.Option(min=100, help="Events a round.")] = 9000,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("out/bench.json"),
) -> None:
    """Measure skillfleet beside plain Celery and print medians with the range of the rounds."""
    machine = describe()
    figures: Figures = defaultdict(lambda: defaultdict(list))
    servers = [ValkeyServer("--appendonly", "no"), ValkeyServer("--appendonly", "no")]
    try:
        systems = [Skillfleet(servers[0].start()), PlainCelery(servers[1].start())]
        for number in range(rounds):
            for system in systems:
                console.print(f"round {number + 1} of {rounds}: {system.name} ...")
                measure(system, figures[system.name], runs, events)
    finally:
        for server in servers:
            server.close()
    console.print(table(figures))
    output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "units": UNITS, "rounds": rounds, "figures": figures}
    output.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"machine: {machine['processor']}, {machine['cores']} cores; figures in {output}")


def measure(system: System, figures: dict[str, list[float]], runs: int, events: int) -> None:
    """One round of all workloads."""
    with system.started(CONCURRENCY) as pid:
        _drain(system, pid, figures, runs)
    with system.started(CONCURRENCY):
        _latency(system, figures)
        if isinstance(system, Skillfleet):
            seconds = system.events(events)
            figures["events of one run to a live reader"].append(events / seconds)
    with system.started(SLEEPERS) as pid:
        system.submit_sleeps(SLEEPERS)
        figures["500 runs awaiting 1 s"].append(system.drained(SLEEPERS))
        figures["500 runs awaiting 1 s: memory"].append(resident_mib(pid))


def _drain(system: System, pid: int, figures: dict[str, list[float]], runs: int) -> None:
    with system.paused():
        figures["enqueue, one call each"].append(_rate(system.submit, runs // 4))
        figures["enqueue, batch"].append(_rate(system.submit_batch, runs - runs // 4))
        before = cpu_seconds(pid)
    figures["runs, drained"].append(runs / system.drained(runs))
    figures["runs, drained: worker CPU"].append((cpu_seconds(pid) - before) / runs * 1000)


def _rate(submit: Callable[[int], None], count: int) -> float:
    began = time.perf_counter()
    submit(count)
    return count / (time.perf_counter() - began)


def _latency(system: System, figures: dict[str, list[float]]) -> None:
    starts, results = zip(*(system.latency() for _ in range(LATENCIES)), strict=True)
    for name, values in (("start", starts), ("result", results)):
        centiles = statistics.quantiles(values, n=100)
        figures[f"submit to {name}, p50"].append(centiles[49] * 1000)
        figures[f"submit to {name}, p99"].append(centiles[98] * 1000)


def table(figures: Figures) -> Table:
    """Medians, with the least and the greatest of the rounds."""
    shown = Table(title="median (least - greatest of the rounds)")
    shown.add_column("measure")
    shown.add_column("unit")
    for name in figures:
        shown.add_column(name, justify="right")
    shown.add_column("ratio", justify="right")
    for measure_name, unit in UNITS.items():
        cells, medians = [], []
        for values in (figures[name].get(measure_name) for name in figures):
            cells.append(_cell(values) if values else "-")
            medians.append(statistics.median(values) if values else None)
        first, second = medians[0], medians[1]
        ratio = f"{first / second:.2f}" if first and second else "-"
        shown.add_row(measure_name, unit, *cells, ratio)
    return shown


def _cell(values: list[float]) -> str:
    middle, least, greatest = statistics.median(values), min(values), max(values)
    digits = 0 if middle >= 100 else 2
    return f"{middle:.{digits}f} ({least:.{digits}f} - {greatest:.{digits}f})"


if __name__ == "__main__":
    typer.run(main)
