"""`python -m benchmarks.tracing_overhead`: measures the cost of telemetry for a worker.

One event-loop worker drains the same runs without telemetry, with spans exported to a collector on
this machine (which only reads them), and with metrics. Rounds are interleaved. No-ops show the cost
per run; runs that await 50 ms, as a quick call of a service does, show its effect on a fleet. With
few cores the collector competes with the worker: processor time per run is the steadier figure.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from skillfleet_producer import Fleet
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

Figures = dict[str, dict[str, list[tuple[float, float]]]]
"""Workload -> variant -> runs a second and processor time a run, of each round."""

WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "no-ops": ("fleet.echo", {"text": "x"}),
    "runs of 50 ms": ("fleet.echo", {"seconds": 0.05}),
}

ENDED = "{skillfleet:0}:expiring"

console = Console(width=100)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each variant runs.")] = 5,
    runs: Annotated[int, typer.Option(min=100, help="Runs a round.")] = 3000,
) -> None:
    """Print runs per second and processor time per run, and the difference to no telemetry."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    server = ValkeyServer("--appendonly", "no")
    try:
        server.start()
        with sink() as endpoint:
            for number in range(rounds):
                console.print(f"round {number + 1} of {rounds}")
                for name, variables in variants(endpoint).items():
                    for workload in WORKLOADS:
                        figures[workload][name].append(measure(server, variables, workload, runs))
    finally:
        server.close()
    for workload, found in figures.items():
        console.print(table(workload, found))
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def variants(endpoint: str) -> dict[str, dict[str, str]]:
    """Return the environments that are compared."""
    probes = {"SKILLFLEET_PROBE_PORT": str(free_port()), "SKILLFLEET_METRICS": "true"}
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none"}
    tenth = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    return {
        "no telemetry": {},
        "traces": traces,
        "traces, one of ten": traces | tenth,
        "metrics": probes,
    }


def measure(
    server: ValkeyServer, variables: Mapping[str, str], workload: str, runs: int
) -> tuple[float, float]:
    """Return runs per second, and milliseconds of the worker's processor time per run."""
    skill, arguments = WORKLOADS[workload]
    with server.client() as client, Fleet(server.url) as fleet:
        client.flushall()
        with worker(server.url, variables) as process:
            for _ in range(20):
                fleet.enqueue("fleet.echo").result(timeout=60)
            process.send_signal(signal.SIGSTOP)
            fleet.enqueue_many(skill, [arguments] * runs)
            used, began = cpu_seconds(process.pid), time.perf_counter()
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: client.zcard(ENDED) >= runs + 20, 300, "all runs")
            rate = runs / (time.perf_counter() - began)
            return rate, (cpu_seconds(process.pid) - used) / runs * 1000


@contextmanager
def worker(url: str, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of the built-in agent, as an operator starts it."""
    command = (sys.executable, "-m", "skillfleet_cli", "worker", "skillfleet_worker.builtin")
    process = subprocess.Popen(
        [*command, "--log-level", "WARNING"],
        env=os.environ | {"SKILLFLEET_REDIS_URL": url, "SKILLFLEET_AUTH": "off", **variables},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def sink() -> Iterator[str]:
    """Run a collector in its own process that accepts everything and parses nothing."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SINK, str(port)])
    try:
        wait_until(lambda: get(port, "/")[0] == 200, what="the sink")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def table(workload: str, figures: Mapping[str, list[tuple[float, float]]]) -> Table:
    """Return medians, and how much less the worker does than without telemetry."""
    shown = Table(title=f"{workload}: median (least - greatest of the rounds)")
    for column in ("telemetry", "runs/s", "less", "CPU ms/run", "more"):
        shown.add_column(column, justify="left" if column == "telemetry" else "right", no_wrap=True)
    base_rate, base_cost = map(statistics.median, zip(*next(iter(figures.values())), strict=True))
    for name, values in figures.items():
        rates, costs = zip(*values, strict=True)
        rate, cost = statistics.median(rates), statistics.median(costs)
        shown.add_row(
            name,
            f"{rate:.0f} ({min(rates):.0f} - {max(rates):.0f})",
            f"{(1 - rate / base_rate):.1%}",
            f"{cost:.2f} ({min(costs):.2f} - {max(costs):.2f})",
            f"{(cost / base_cost - 1):.1%}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
