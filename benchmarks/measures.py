"""The measures, in the order of the terminal table, the page and the chart."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A figure; `better` says which way is good."""

    name: str
    title: str
    unit: str
    better: Literal["more", "less"]


def _more(name: str, title: str, unit: str = "1/s") -> Measure:
    return Measure(name, title, unit, "more")


def _less(name: str, title: str, unit: str = "ms") -> Measure:
    return Measure(name, title, unit, "less")


MEASURES = (
    _more("drain_rate", "no-ops, queue drained"),
    _more("result_rate", "no-ops, until the producer has every result, one call each"),
    _more("two_workers", "no-ops, queue drained by two workers, over one", "x"),
    _less("drain_cpu_ms", "worker CPU a job"),
    _less("server_cpu_ms", "Redis CPU a job, submit to result"),
    _less("commands", "Redis commands a job, submit to result", ""),
    _less("scripts", "of these, calls of scripts", ""),
    _less("reads", "socket reads of Redis a job", ""),
    _more("submit_rate", "enqueue, one call each"),
    _less("submit_cpu_ms", "producer CPU, one call each"),
    _less("submit_sync_cpu_ms", "producer CPU, one call each, synchronous Fleet"),
    _more("batch_rate", "enqueue, batch"),
    _less("batch_cpu_ms", "producer CPU, batch"),
    _less("start_p50_ms", "submit to start, p50"),
    _less("start_p99_ms", "submit to start, p99"),
    _less("latency_p50_ms", "submit to result, p50"),
    _less("latency_p99_ms", "submit to result, p99"),
    _less("sleep_ratio", "sleeping jobs, wall over ideal", "x"),
    _less("sleep_peak_mib", "sleeping jobs, worker's peak memory", "MiB"),
    _more("events_1", "events, one stream"),
    _more("events_10", "events, ten streams together"),
    _less("cancel_p50_ms", "cancel to seen by the job, p50"),
    _less("idle_mib", "idle worker's memory", "MiB"),
    _less("queued_bytes", "Redis memory a queued job", "B"),
    _less("running_mib", "worker memory, all 1,000 slots taken", "MiB"),
    _less("running_bytes", "Redis memory a running job", "B"),
    _less("running_stream_bytes", "Redis memory a running job that has emitted an event", "B"),
    _more("artifact_1_write", "artifact of 1 MiB, write", "MiB/s"),
    _more("artifact_1_read", "artifact of 1 MiB, read", "MiB/s"),
    _less("artifact_1_stall_ms", "artifact of 1 MiB, worst stall of another client"),
    _less("artifact_1_idle_stall_ms", "the same client's worst stall before"),
    _more("artifact_64_write", "artifact of 64 MiB, write", "MiB/s"),
    _more("artifact_64_read", "artifact of 64 MiB, read", "MiB/s"),
    _less("artifact_64_stall_ms", "artifact of 64 MiB, worst stall of another client"),
    _less("artifact_64_idle_stall_ms", "the same client's worst stall before"),
)
