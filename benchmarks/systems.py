"""The systems under test: each has its own server, worker and driver."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_seconds, tree
from benchmarks.venvs import ROOT, python_of
from tests.support.valkey import ValkeyServer

_REST_SECONDS = 0.5
_LEAST_START = 0.1
_MOST_STARTS = 60

APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "everysec")
_BARE = ("--appendonly", "no")
_OURS = (
    *APPEND_ONLY,
    *("--stream-node-max-bytes", "1024", "--auto-aof-rewrite-min-size", "256mb"),
)
"""As the chart, the manifests and `skillfleet dev` set it."""


@dataclass(frozen=True)
class Slots:
    """The jobs a worker runs at once: in most workloads, while all sleep, while all are held.

    `sleepers` is how many sleeping jobs it gets. None: such a worker makes no sense.
    """

    busy: int = 100
    sleeping: int = 500
    sleepers: int = 1000
    held: int | None = 1000


@dataclass(frozen=True)
class Kind:
    """One way to run one system; `variant` is for its driver.

    `server` holds the options of its Redis. With `drain_only` it is an extra row of the
    workload that empties a queue, and of no other.
    """

    name: str
    peer: str
    slots: Slots = Slots()
    variant: str = ""
    traced: bool = False
    server: tuple[str, ...] = APPEND_ONLY
    drain_only: bool = False


_THREADS = Slots(busy=16)
_PROCESSES = Slots(busy=os.cpu_count() or 1, sleeping=16, sleepers=64, held=None)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("skillfleet", "skillfleet", server=_OURS),
        Kind("skillfleet-quiet", "skillfleet", variant="quiet", server=_OURS, drain_only=True),
        Kind("dramatiq-bare", "dramatiq", _THREADS, server=_BARE, drain_only=True),
        Kind("skillfleet-traced", "skillfleet", traced=True, server=_OURS),
        Kind("celery-threads", "celery", _THREADS, "threads"),
        Kind("celery-prefork", "celery", _PROCESSES, "prefork"),
        Kind("dramatiq", "dramatiq", _THREADS),
        Kind("taskiq", "taskiq"),
        Kind("arq", "arq"),
        Kind("saq", "saq"),
        Kind("huey", "huey", _THREADS),
    )
}


@dataclass
class System:
    """A running kind of system on one server. `collector` takes spans where it is traced."""

    kind: Kind
    server: ValkeyServer
    collector: str
    pid: int = field(default=0, init=False)
    _others: list[int] = field(default_factory=list, init=False)
    _driver: subprocess.Popen[str] | None = field(default=None, init=False)

    @contextmanager
    def started(self, slots: int) -> Iterator[None]:
        """Run worker and driver on the emptied server until the end of the block."""
        with self.server.client() as client:
            client.flushall()
        environment = self._environment(slots)
        with _logged(self.kind.name) as log:
            module = f"benchmarks.peers.{self.kind.peer}.driver"
            self._driver = self._popen(["-m", module], environment, log, pipe=subprocess.PIPE)
            try:
                with self._worker(environment, slots, log) as self.pid:
                    self.ask("warm")
                    yield
            finally:
                _kill(self._driver)

    @contextmanager
    def joined(self, slots: int) -> Iterator[None]:
        """Run a second worker on the same queue inside; it has started, but is not warm."""
        with (
            _logged(self.kind.name) as log,
            self._worker(self._environment(slots), slots, log) as other,
        ):
            _wait_started(other)
            self._others.append(other)
            try:
                yield
            finally:
                self._others.remove(other)

    @contextmanager
    def _worker(self, environment: dict[str, str], slots: int, log: int) -> Iterator[int]:
        # A pipe, as a container's log is: what reads it keeps it for a failure.
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        if reader.stdin is None:
            raise RuntimeError("the reader of the log has no input")
        arguments = self.ask("worker", concurrency=slots)
        worker = self._popen(arguments, environment, reader.stdin.fileno())
        reader.stdin.close()
        try:
            yield worker.pid
        finally:
            _kill(worker)
            reader.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the workers and their children inside."""
        pids = [pid for worker in (self.pid, *self._others) for pid in tree(worker)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def ask(self, what: str, **arguments: Any) -> Any:
        """Have the driver do something and return its answer."""
        driver = self._driver
        if driver is None or driver.stdin is None or driver.stdout is None:
            raise RuntimeError("the driver was not started")
        driver.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        driver.stdin.flush()
        line = driver.stdout.readline()
        answer = json.loads(line) if line else {"error": "the driver ended"}
        if "error" in answer:
            raise RuntimeError(f"{self.kind.name}, {what}: {answer['error']}")
        return answer["ok"]

    def _environment(self, slots: int) -> dict[str, str]:
        added = {
            "BENCH_REDIS_URL": self.server.url,
            "BENCH_CONCURRENCY": str(slots),
            "BENCH_VARIANT": self.kind.variant,
            "SKILLFLEET_REDIS_URL": self.server.url,
        }
        if self.kind.traced:
            added["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = self.collector
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        return kept | added

    def _popen(
        self, arguments: list[str], environment: dict[str, str], log: int, pipe: int | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python_of(self.kind.peer), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or log,
            stderr=log,
            text=True,
        )


def _wait_started(pid: int) -> None:
    """Return when a process has used the processor for a while, and then uses little of it.

    Some workers poll while they wait: half a core is little compared with a start.
    """
    used = cpu_seconds(pid)
    for _ in range(_MOST_STARTS):
        time.sleep(_REST_SECONDS)
        before, used = used, cpu_seconds(pid)
        if used > _LEAST_START and used - before < _REST_SECONDS / 2:
            return
    raise TimeoutError(f"worker {pid} does not come to rest")


@contextmanager
def _logged(name: str) -> Iterator[int]:
    """A file for the output of the processes; shown when the block fails."""
    with tempfile.NamedTemporaryFile(prefix=f"bench-{name}-", suffix=".log") as log:
        try:
            yield log.fileno()
        except BaseException:
            print(Path(log.name).read_text(errors="replace")[-5000:])
            raise


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its descendants; what it holds in Redis is discarded anyway."""
    if process.poll() is None:
        for pid in reversed(tree(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
