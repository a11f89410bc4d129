"""`python -m benchmarks.tracing_overhead`: what telemetry costs a worker.

The same no-op runs, drained by one event-loop worker: without telemetry, with spans exported to
a collector on this machine (which only reads them), and with metrics. Rounds are interleaved.
Where cores are few, the collector competes with the worker: the processor time a run is the
steadier figure.
"""

import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import cpu_seconds, describe
from benchmarks.systems import Skillfleet
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.telemetry.scraping import get

SINK = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
"""

console = Console()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each variant runs.")] = 5,
    runs: Annotated[int, typer.Option(min=100, help="No-op runs a round.")] = 3000,
) -> None:
    """Print runs a second and processor time a run, with the difference to no telemetry."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    server = ValkeyServer("--appendonly", "no")
    try:
        server.start()
        with sink() as endpoint:
            for number in range(rounds):
                console.print(f"round {number + 1} of {rounds}")
                for name, variables in variants(endpoint).items():
                    rate, cost = measure(server, variables, runs)
                    rates[name].append(rate)
                    costs[name].append(cost)
    finally:
        server.close()
    console.print(table(rates, costs))
    machine = describe()
    console.print(f"machine: {machine['processor']}, {machine['cores']} cores")


def variants(endpoint: str) -> dict[str, dict[str, str]]:
    """The environments that are compared."""
    probes = {"SKILLFLEET_PROBE_PORT": str(free_port()), "SKILLFLEET_METRICS": "true"}
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none"}
    tenth = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    return {
        "no telemetry": {},
        "traces": traces,
        "traces, one of ten": traces | tenth,
        "metrics": probes,
    }


def measure(server: ValkeyServer, variables: Mapping[str, str], runs: int) -> tuple[float, float]:
    """Runs a second, and milliseconds of the worker's processor time a run."""
    system = Skillfleet(server)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with system.started(100) as pid:
            with system.paused():
                system.submit_batch(runs)
                used = cpu_seconds(pid)
            rate = runs / system.drained(runs)
            return rate, (cpu_seconds(pid) - used) / runs * 1000
    finally:
        system.fleet.close()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def sink() -> Iterator[str]:
    """A collector in a process of its own that takes everything and looks at nothing."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SINK, str(port)])
    try:
        wait_until(lambda: get(port, "/")[0] == 200, what="the sink")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def table(rates: Mapping[str, list[float]], costs: Mapping[str, list[float]]) -> Table:
    """Medians, and how much less the worker does than without telemetry."""
    shown = Table(title="median (least - greatest of the rounds)")
    for column in ("telemetry", "runs/s", "less", "CPU ms/run", "more"):
        shown.add_column(column, justify="left" if column == "telemetry" else "right")
    base_rate, base_cost = (statistics.median(next(iter(each.values()))) for each in (rates, costs))
    for name, values in rates.items():
        rate, cost = statistics.median(values), statistics.median(costs[name])
        shown.add_row(
            name,
            f"{rate:.0f} ({min(values):.0f} - {max(values):.0f})",
            f"{(1 - rate / base_rate):.1%}",
            f"{cost:.3f} ({min(costs[name]):.3f} - {max(costs[name]):.3f})",
            f"{(cost / base_cost - 1):.1%}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
