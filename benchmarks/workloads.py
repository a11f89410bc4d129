"""One round of all workloads on one system."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.machine import cpu_seconds, resident_mib
from benchmarks.systems import System
from benchmarks.usage import data_bytes, stalls, usage

Figures = dict[str, float]
_STREAMS = 3
_IDLE_SECONDS = 1.0
_ARTIFACTS_MIB = 5


@dataclass(frozen=True)
class Sizes:
    """The sizes of the workloads."""

    jobs: int = 2000
    latencies: int = 200
    events: int = 2000
    cancels: int = 10
    sleepers: int = 1000
    seconds: float = 1.0
    queued: int = 10_000
    held: int = 1000
    mib: tuple[int, ...] = (1, 64)


def measure(system: System, sizes: Sizes) -> Iterator[tuple[str, Figures]]:
    """Yield each workload's name and its figures, by the names of benchmarks/measures.py."""
    slots = system.kind.slots
    with system.started(slots.busy):
        yield "drain", {"idle_mib": resident_mib(system.pid)} | drain(system, sizes.jobs)
        yield "results", results(system, sizes.jobs // 2)
        if system.kind.drain_only:
            return
        yield "latency", latency(system, sizes.latencies)
        yield "start", starts(system, sizes.latencies)
        yield "events", events(system, sizes.events)
        yield "cancel", cancel(system, sizes.cancels)
        if system.kind.peer == "skillfleet":
            for mib in sizes.mib:
                yield "artifacts", artifact(system, mib)
        yield "queued", queued(system, sizes.queued)
    if slots.held is not None:
        with system.started(slots.busy):
            yield "two workers", two_workers(system, sizes.jobs)
    with system.started(slots.sleeping):
        yield "sleepers", sleepers(system, min(slots.sleepers, sizes.sleepers), sizes.seconds)
    if slots.held is not None:
        with system.started(slots.held):
            yield "running", running(system, min(slots.held, sizes.held))
        if system.kind.peer == "skillfleet":
            with system.started(slots.held):
                held = min(slots.held, sizes.held)
                yield "running with a stream", running_with_stream(system, held)


def drain(system: System, jobs: int) -> Figures:
    """Fill the queue while the worker is stopped, then let the worker empty it."""
    singles = jobs // 4
    figures: Figures = {}
    start = usage(system)
    with system.paused():
        one = system.ask("submit", count=singles)
        many = system.ask("submit_many", count=jobs - singles)
        worker_before = cpu_seconds(system.pid)
        began = time.perf_counter()
    looks = system.ask("drain")
    seconds = time.perf_counter() - began
    end = usage(system)
    itself = usage(system) - end
    system.ask("drain")
    look = usage(system) - end - itself * 2
    spent = end - start - itself - look * looks
    if system.kind.peer == "skillfleet":
        sync = system.ask("submit_sync", count=singles)
        figures["submit_sync_cpu_ms"] = sync["cpu"] / singles * 1000
        system.ask("drain")
    return figures | {
        "drain_rate": jobs / seconds,
        "drain_cpu_ms": (end.worker_cpu - worker_before) / jobs * 1000,
        "server_cpu_ms": spent.server_cpu / jobs * 1000,
        "commands": spent.commands / jobs,
        "scripts": spent.scripts / jobs,
        "reads": spent.reads / jobs,
        "submit_rate": singles / one["seconds"],
        "submit_cpu_ms": one["cpu"] / singles * 1000,
        "batch_rate": (jobs - singles) / many["seconds"],
        "batch_cpu_ms": many["cpu"] / (jobs - singles) * 1000,
    }


def results(system: System, jobs: int) -> Figures:
    """Empty a full queue until the producer has every result, one call each."""
    with system.paused():
        system.ask("prepare", count=jobs)
        began = time.perf_counter()
    system.ask("fetch")
    return {"result_rate": jobs / (time.perf_counter() - began)}


def two_workers(system: System, jobs: int) -> Figures:
    """Compare two worker processes that empty a queue with the first of them alone."""
    alone = _emptied(system, jobs)
    with system.joined(system.kind.slots.busy):
        system.ask("submit_many", count=jobs)
        system.ask("drain")
        together = _emptied(system, 2 * jobs)
    return {"two_workers": together / alone}


def _emptied(system: System, jobs: int) -> float:
    """Return jobs per second while a full queue is emptied."""
    with system.paused():
        system.ask("submit_many", count=jobs)
        began = time.perf_counter()
    system.ask("drain")
    return jobs / (time.perf_counter() - began)


def latency(system: System, count: int) -> Figures:
    """Measure submit to result, one job at a time."""
    centiles = statistics.quantiles(system.ask("latency", count=count), n=100)
    return {"latency_p50_ms": centiles[49] * 1000, "latency_p99_ms": centiles[98] * 1000}


def starts(system: System, count: int) -> Figures:
    """Measure submit to start of a job, where the worker reports it."""
    found = system.ask("starts", count=count)
    if found is None:
        return {}
    centiles = statistics.quantiles(found, n=100)
    return {"start_p50_ms": centiles[49] * 1000, "start_p99_ms": centiles[98] * 1000}


def events(system: System, count: int) -> Figures:
    """Measure events per second from one job and ten at once, to a live reader: median of 3."""
    return {
        f"events_{runs}": statistics.median(
            runs * count / system.ask("streams", runs=runs, count=count) for _ in range(_STREAMS)
        )
        for runs in (1, 10)
    }


def cancel(system: System, count: int) -> Figures:
    """Measure the time from a cancellation until the running job sees it."""
    found = system.ask("cancels", count=count)
    return {} if found is None else {"cancel_p50_ms": statistics.median(found) * 1000}


def artifact(system: System, mib: int) -> Figures:
    """Write and read artifacts (a small one five times), while another client pings the server."""
    times = max(1, _ARTIFACTS_MIB // mib)
    with stalls(system.server) as idle:
        time.sleep(_IDLE_SECONDS)
    with stalls(system.server) as worst:
        took = [system.ask("artifact", mib=mib) for _ in range(times)]
    return {
        f"artifact_{mib}_write": mib / statistics.median(each["write"] for each in took),
        f"artifact_{mib}_read": mib / statistics.median(each["read"] for each in took),
        f"artifact_{mib}_stall_ms": worst[0] * 1000,
        f"artifact_{mib}_idle_stall_ms": idle[0] * 1000,
    }


def queued(system: System, count: int) -> Figures:
    """Measure the memory of a queued job in Redis."""
    with system.paused():
        before = data_bytes(system)
        system.ask("submit_many", count=count)
        return {"queued_bytes": (data_bytes(system) - before) / count}


def sleepers(system: System, count: int, seconds: float) -> Figures:
    """Run jobs that await one second, twice as many as slots (four times in prefork)."""
    waves = -(-count // system.kind.slots.sleeping)
    wall = system.ask("sleeps", count=count, seconds=seconds)
    return {
        "sleep_ratio": wall / (waves * seconds),
        "sleep_peak_mib": resident_mib(system.pid, peak=True),
    }


def running(system: System, count: int) -> Figures:
    """Measure the memory of running jobs in the worker and in Redis."""
    before = data_bytes(system)
    system.ask("hold", count=count, seconds=120)
    return {
        "running_mib": resident_mib(system.pid),
        "running_bytes": (data_bytes(system) - before) / count,
    }


def running_with_stream(system: System, count: int) -> Figures:
    """Measure the memory in Redis of a running job that has emitted an event."""
    before = data_bytes(system)
    system.ask("hold", count=count, seconds=120, job="hold_emitting")
    return {"running_stream_bytes": (data_bytes(system) - before) / count}
