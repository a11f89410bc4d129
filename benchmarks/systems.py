"""The systems under test: each starts a server and one worker process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.plain_celery import app as plain
from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

_LATENCY_WARMUP = 20


class System(ABC):
    """One worker process on one server."""

    name: str

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.worker: subprocess.Popen[bytes] | None = None

    @contextmanager
    def started(self, concurrency: int) -> Iterator[int]:
        """Run the worker with that many slots; yields its process id."""
        with self.server.client() as client:
            client.flushall()
        log = Path(tempfile.mkstemp(prefix=f"bench-{self.name}-")[1])
        with log.open("wb") as output:
            self.worker = subprocess.Popen(
                [sys.executable, "-m", *self.command(concurrency)],
                env=os.environ | {"SKILLFLEET_REDIS_URL": self.server.url},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.warm_up()
            yield self.worker.pid
        finally:
            self.worker.send_signal(signal.SIGCONT)
            self.worker.kill()
            self.worker.wait()
            log.unlink()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The worker stands still inside, and goes on behind."""
        if self.worker is None:
            raise RuntimeError("the worker was not started")
        self.worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.send_signal(signal.SIGCONT)

    @abstractmethod
    def command(self, concurrency: int) -> list[str]:
        """The module and arguments of the worker."""

    @abstractmethod
    def warm_up(self) -> None:
        """Return when the worker has executed something."""

    @abstractmethod
    def submit(self, count: int) -> None:
        """Submit no-ops, one call each."""

    @abstractmethod
    def submit_batch(self, count: int) -> None:
        """Submit no-ops in the fastest way the system has."""

    @abstractmethod
    def submit_sleeps(self, count: int) -> None:
        """Submit jobs that wait one second."""

    @abstractmethod
    def finished(self) -> int:
        """How many jobs have a result by now."""

    @abstractmethod
    def latency(self) -> tuple[float, float]:
        """Seconds from the submit of one job to its start, and to its result."""

    def drained(self, count: int) -> float:
        """Seconds until `count` jobs have their results, since now."""
        began = time.perf_counter()
        wait_until(lambda: self.finished() >= count, 300, f"{count} results")
        return time.perf_counter() - began


class Skillfleet(System):
    """Ours: ledger, lease, events and result, in the event-loop pool."""

    name = "skillfleet"

    def __init__(self, server: ValkeyServer) -> None:
        super().__init__(server)
        self.fleet = Fleet(server.url)

    def command(self, concurrency: int) -> list[str]:
        options = ["--concurrency", str(concurrency), "--log-level", "WARNING"]
        return ["skillfleet_cli", "worker", "benchmarks.agents", *options]

    def warm_up(self) -> None:
        for _ in range(_LATENCY_WARMUP):
            self.fleet.enqueue("bench.noop").result(timeout=60)
        self._before = self.finished()

    def submit(self, count: int) -> None:
        for number in range(count):
            self.fleet.enqueue("bench.noop", {"number": number, "text": "x"})

    def submit_batch(self, count: int) -> None:
        arguments = [{"number": number, "text": "x"} for number in range(count)]
        self.fleet.enqueue_many("bench.noop", arguments)

    def submit_sleeps(self, count: int) -> None:
        self.fleet.enqueue_many("bench.sleep", [{}] * count)

    def finished(self) -> int:
        with self.server.client() as client:
            return int(client.zcard("{skillfleet:0}:state:succeeded")) - getattr(self, "_before", 0)

    def latency(self) -> tuple[float, float]:
        began = time.time()
        started = self.fleet.enqueue("bench.started_at").result(timeout=30)
        return started - began, time.time() - began

    def events(self, count: int) -> float:
        """Seconds from the first to the last of `count` events of one run at a live reader."""
        run = self.fleet.enqueue("bench.stream", {"count": count})
        seen, first = 0, 0.0
        for event in run.events(timeout=60):
            if event.kind == "text_delta":
                seen += 1
                first = first or time.perf_counter()
        if seen != count:
            raise AssertionError(f"{seen} of {count} events arrived")
        return time.perf_counter() - first


class PlainCelery(System):
    """Celery's threads pool on Redis, late acknowledgement, results stored."""

    name = "celery-threads"

    def __init__(self, server: ValkeyServer) -> None:
        super().__init__(server)
        plain.conf.update(broker_url=server.url, result_backend=server.url)

    def command(self, concurrency: int) -> list[str]:
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        urls = ["-b", self.server.url, "--result-backend", self.server.url]
        pool = ["-P", "threads", "-c", str(concurrency), "-l", "WARNING"]
        return ["celery", "-A", "benchmarks.plain_celery", *urls, "worker", *pool, *lean]

    def warm_up(self) -> None:
        for _ in range(_LATENCY_WARMUP):
            plain.send_task("plain.noop").get(timeout=60)
        self._before = self.finished()

    def submit(self, count: int) -> None:
        for number in range(count):
            plain.send_task("plain.noop", kwargs={"number": number, "text": "x"})

    def submit_batch(self, count: int) -> None:
        with plain.producer_pool.acquire() as producer:
            for number in range(count):
                arguments = {"number": number, "text": "x"}
                plain.send_task("plain.noop", kwargs=arguments, producer=producer)

    def submit_sleeps(self, count: int) -> None:
        with plain.producer_pool.acquire() as producer:
            for _ in range(count):
                plain.send_task("plain.sleep", producer=producer)

    def finished(self) -> int:
        with self.server.client() as client:
            keys = sum(1 for _ in client.scan_iter("celery-task-meta-*", count=10_000))
        return keys - getattr(self, "_before", 0)

    def latency(self) -> tuple[float, float]:
        began = time.time()
        started = plain.send_task("plain.started_at").get(timeout=30)
        return started - began, time.time() - began
