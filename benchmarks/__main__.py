"""`python -m benchmarks`: rounds of all workloads, interleaved between the systems."""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.chart import draw
from benchmarks.collector import collecting
from benchmarks.machine import describe, load
from benchmarks.page import renew
from benchmarks.results import Results, Spread, table
from benchmarks.systems import KINDS, System
from benchmarks.venvs import installed
from benchmarks.workloads import Sizes, measure
from tests.support.valkey import ValkeyServer

console = Console()
Collected = dict[str, dict[str, list[float]]]


def main(  # noqa: PLR0913, PLR0917  # the options of a command
    systems: Annotated[str, typer.Option(help="Which, by comma; or all.")] = (
        "skillfleet,skillfleet-quiet,celery-threads"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="How often each workload runs.")] = 3,
    jobs: Annotated[int, typer.Option(min=100, help="No-ops a round.")] = 2000,
    events: Annotated[int, typer.Option(min=10, help="Events of one stream.")] = 2000,
    sleepers: Annotated[int, typer.Option(min=1, help="Sleeping jobs.")] = 1000,
    latencies: Annotated[int, typer.Option(min=2, help="Jobs, one at a time.")] = 200,
    cancels: Annotated[int, typer.Option(min=1, help="Cancelled jobs.")] = 10,
    seconds: Annotated[float, typer.Option(help="How long a sleeping job sleeps.")] = 1.0,
    queued: Annotated[int, typer.Option(min=1, help="Queued jobs whose memory counts.")] = 10_000,
    held: Annotated[int, typer.Option(min=1, help="Running jobs whose memory counts.")] = 1000,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("out/bench.json"),
    page: Annotated[bool, typer.Option(help="Renew the chart and docs/performance.md.")] = False,  # noqa: FBT002
) -> None:
    """Measure skillfleet beside others and print medians with the range of the rounds."""
    names = list(KINDS) if systems == "all" else systems.split(",")
    sizes = Sizes(
        jobs=jobs,
        events=events,
        sleepers=sleepers,
        latencies=latencies,
        cancels=cancels,
        seconds=seconds,
        queued=queued,
        held=held,
    )
    results = run(names, rounds, sizes, output)
    console.print(table(results))
    console.print(f"figures in {output}")
    if page:
        draw(results, output.with_suffix(".svg"))
        renew(results, output)


def run(names: list[str], rounds: int, sizes: Sizes, output: Path) -> Results:
    """All rounds; the file is written after each. Every second one goes through them backwards."""
    machine, loads = describe(), []
    collected: Collected = {name: defaultdict(list) for name in names}
    with ExitStack() as stack, console.status("starting") as status:
        collector = stack.enter_context(collecting())
        running = {}
        for name in names:
            server = ValkeyServer(*KINDS[name].server)
            stack.callback(server.close)
            running[name] = System(KINDS[name], server.start(), collector)
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                loads.append(load())
                for workload, figures in measure(running[name], sizes):
                    status.update(f"round {number + 1} of {rounds}: {name}, after {workload}")
                    for title, value in figures.items():
                        collected[name][title].append(value)
                console.print(f"round {number + 1} of {rounds}: {name}", highlight=False)
            results = _results(machine, loads, sizes, collected)
            results.write(output)
    return results


def _results(
    machine: dict[str, Any], loads: list[float], sizes: Sizes, collected: Collected
) -> Results:
    kinds = [KINDS[name] for name in collected]
    return Results(
        machine=machine,
        load_1m=loads,
        sizes=asdict(sizes),
        versions={kind.peer: installed(kind.peer) for kind in kinds},
        slots={kind.name: asdict(kind.slots) for kind in kinds},
        figures={
            name: {title: Spread.of(values) for title, values in figures.items()}
            for name, figures in collected.items()
        },
    )


if __name__ == "__main__":
    typer.run(main)
