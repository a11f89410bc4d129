"""The memory and modules of a fleet's processes; figures in docs/memory.md."""

import os
import sys
import urllib.request
from pathlib import Path

import pytest

from skillfleet_producer import Fleet
from tests.cli.commands import Running, Shell
from tests.support.forms import forms
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sizes are read from Linux's /proc"),
    pytest.mark.xdist_group("cli"),
]

AGENT = """
import asyncio, gc, sys
from pathlib import Path
from skillfleet import Agent, RunContext

lean = Agent("lean")

@lean.skill
async def own_kib(ctx: RunContext) -> int:
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

@lean.skill
async def sleep(ctx: RunContext) -> None:
    await asyncio.sleep(600)

@lean.skill
async def nothing(ctx: RunContext) -> None:
    pass

@lean.skill
async def stop_collecting(ctx: RunContext) -> None:
    gc.collect()
    gc.disable()

@lean.skill
async def garbage(ctx: RunContext) -> int:
    return gc.collect()

@lean.skill
async def modules(ctx: RunContext) -> list[str]:
    return list(sys.modules)
"""
# What only those need who sign runs, export telemetry, call over HTTP, or use Celery's shell.
UNUSED = (
    "cryptography.hazmat",
    "flower",
    "google.protobuf",
    "httpx",
    "jwt",
    "opentelemetry.exporter",
    "opentelemetry.instrumentation",
    "prometheus_client",
    "prompt_toolkit",
    "rich.console",
    "tornado",
)
RUNNING = 1000
# Measured, on Python 3.11: 73, 100 and 43 MiB; 19 MiB, and 38 where a collection wrote to all
# objects.
IDLE_WORKER_MIB = 85
BUSY_WORKER_MIB = 115
EXPORTER_MIB = 50
PREFORK_CHILD_OWN_MIB = 28
ROUNDS = 50
# CPU time of a round: five percent of a core where KEDA and Prometheus ask every two seconds.
# Measured: 0.003.
EXPORTER_CPU_SECONDS = 0.05 * 2


def resident_mib(command: Running) -> float:
    """The resident size of a command's process."""
    lines = Path(f"/proc/{command.process.pid}/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kib / 1024


def cpu_seconds(command: Running) -> float:
    """Return the processor time that a command's process has used, over all threads."""
    text = Path(f"/proc/{command.process.pid}/stat").read_text()
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_an_idle_worker_is_small_and_loads_nothing_that_it_does_not_use(
    bare: Shell, tmp_path: Path
) -> None:
    (bare.folder / "lean_agent.py").write_text(AGENT)
    with bare.start("worker", "lean_agent", log=tmp_path / "log") as worker:
        worker.wait_for(r" ready\.")
        assert resident_mib(worker) < IDLE_WORKER_MIB
        end = bare.ok("enqueue", "lean.modules", "--follow", "--json").json_lines[-1]
    loaded = set(end["result"])
    assert "skillfleet_worker.app" in loaded
    assert [name for name in UNUSED if name in loaded] == []


def test_a_worker_stays_small_with_a_thousand_runs_at_once_and_ten_thousand_queued(
    valkey: ValkeyServer, bare: Shell, tmp_path: Path
) -> None:
    (bare.folder / "lean_agent.py").write_text(AGENT)
    options = ("--concurrency", str(RUNNING))
    with (
        bare.start("worker", "lean_agent", *options, log=tmp_path / "log") as worker,
        Fleet(valkey.url) as fleet,
        valkey.client() as client,
    ):
        worker.wait_for(r" ready\.")
        for _ in range(11):
            fleet.enqueue_many("lean.sleep", [{}] * 1000)
        running = f"{fleet.settings.keyspace.shard_prefix(0)}leases"
        wait_until(lambda: client.zcard(running) == RUNNING, 60, "the runs to start")
        assert resident_mib(worker) < BUSY_WORKER_MIB


def test_a_run_that_is_over_leaves_nothing_for_the_garbage_collection(
    valkey: ValkeyServer, bare: Shell, tmp_path: Path
) -> None:
    (bare.folder / "lean_agent.py").write_text(AGENT)
    with (
        bare.start("worker", "lean_agent", log=tmp_path / "log") as worker,
        Fleet(valkey.url) as fleet,
    ):
        worker.wait_for(r" ready\.")
        for run in fleet.enqueue_many("lean.nothing", [{}] * 10):
            run.result(timeout=30)
        fleet.enqueue("lean.stop_collecting").result(timeout=30)
        for run in fleet.enqueue_many("lean.nothing", [{}] * 100):
            run.result(timeout=30)
        assert fleet.enqueue("lean.garbage").result(timeout=30) < 100


def test_a_child_of_prefork_shares_what_start_up_made_also_after_a_collection(
    bare: Shell, tmp_path: Path
) -> None:
    (bare.folder / "lean_agent.py").write_text(AGENT)
    options = ("--pool", "prefork", "-c", "2")
    with bare.start("worker", "lean_agent", *options, log=tmp_path / "log") as worker:
        worker.wait_for(r" ready\.")
        for _ in range(4):
            end = bare.ok("enqueue", "lean.own_kib", "--follow", "--json").json_lines[-1]
            assert end["result"] / 1024 < PREFORK_CHILD_OWN_MIB


@pytest.mark.parametrize("queued", forms(short=[10_000], thorough=[100_000]))
def test_the_exporter_stays_small_and_idle_whatever_is_queued(
    valkey: ValkeyServer, bare: Shell, tmp_path: Path, queued: int
) -> None:
    with Fleet(valkey.url) as fleet:
        for _ in range(queued // 1000):
            fleet.enqueue_many("unserved.skill", [{"number": 1}] * 1000)
    port = free_port()
    with bare.start("exporter", "--port", str(port), log=tmp_path / "log") as exporter:
        wait_until(lambda: _answer(port, "/healthz"), what="the exporter")
        before = cpu_seconds(exporter)
        for _ in range(ROUNDS):
            demand = _answer(port, "/demand?queue=celery")
            metrics = _answer(port, "/metrics")
        assert f'"queued":{queued},' in demand
        assert f'skillfleet_queue_queued{{queue="celery"}} {queued}' in metrics
        assert resident_mib(exporter) < EXPORTER_MIB
        assert (cpu_seconds(exporter) - before) / ROUNDS < EXPORTER_CPU_SECONDS


def _answer(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
