"""Resource usage of a system's worker and server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import redis

from benchmarks.machine import cpu_seconds
from benchmarks.systems import System

_OWN = {"cmdstat_info", "cmdstat_ping"}


@dataclass(frozen=True)
class Usage:
    """Sums since the start: executed commands (also inside scripts), socket reads."""

    worker_cpu: float
    server_cpu: float
    commands: float
    reads: float
    scripts: float

    def __sub__(self, other: "Usage") -> "Usage":
        names = [each.name for each in fields(self)]
        return Usage(**{name: getattr(self, name) - getattr(other, name) for name in names})

    def __mul__(self, factor: float) -> "Usage":
        return Usage(**{each.name: getattr(self, each.name) * factor for each in fields(self)})


def usage(system: System) -> Usage:
    """Return the usage until now."""
    with system.server.client() as client:
        info: Any = client.info("everything")
        calls = {name: each["calls"] for name, each in client.info("commandstats").items()}
    return Usage(
        worker_cpu=cpu_seconds(system.pid),
        server_cpu=info["used_cpu_user"] + info["used_cpu_sys"],
        commands=sum(count for name, count in calls.items() if name not in _OWN),
        reads=info["total_reads_processed"],
        scripts=sum(calls.get(f"cmdstat_{name}", 0) for name in ("eval", "evalsha", "fcall")),
    )


def data_bytes(system: System) -> int:
    """Return the memory of all keys; the server's total would include its clients."""
    with system.server.client() as client, client.pipeline(transaction=False) as pipe:
        for key in client.scan_iter(count=1000):
            pipe.execute_command("MEMORY", "USAGE", key, "SAMPLES", 0)
        return sum(size or 0 for size in pipe.execute())


@contextmanager
def stalls(server: Any) -> Iterator[list[float]]:
    """Ping the server without a pause; the list then holds the slowest answer in seconds."""
    worst: list[float] = []
    over = threading.Event()
    thread = threading.Thread(target=_ping, args=(server.client(), over, worst))
    thread.start()
    try:
        yield worst
    finally:
        over.set()
        thread.join()


def _ping(client: redis.Redis, over: threading.Event, worst: list[float]) -> None:
    found = 0.0
    with client:
        client.ping()
        while not over.is_set():
            began = time.perf_counter()
            client.ping()
            found = max(found, time.perf_counter() - began)
            time.sleep(0.0005)
    worst.append(found)
