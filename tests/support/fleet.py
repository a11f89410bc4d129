"""Real worker processes of any pool, with agents from a test module, on a real server."""

import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from skillfleet_ledger.keys import DEFAULT_NAMESPACE, Keyspace
from tests.support import acl, preloaded
from tests.support.fleet_app import CONCURRENCY, MODULES, POOL
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
POOLS = ("loop", "prefork", "threads")

POOL_FORMS = forms(short=["loop", "prefork"], thorough=["threads"])
"""The pools for tests that start workers of their own: they cost seconds each."""
SIZES = {"loop": 100, "prefork": 2, "threads": 8}
_START_SECONDS = 60.0
_PRELOAD = ("tests.support.celery_worker", "tests.support.fleet_app")


class FleetWorker:
    """One `celery worker` with the agents of `modules` (one or more names), not yet started.

    `settings` are worker settings by name: `lease_seconds=1` is SKILLFLEET_LEASE_SECONDS. It
    talks to Redis as the user that deploy/redis has for workers.
    """

    def __init__(
        self,
        server: ValkeyServer,
        modules: str,
        *,
        pool: str = "loop",
        concurrency: int | None = None,
        options: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.server = server
        self.pool = pool
        self.process: preloaded.PreloadedProcess | None = None
        self.log = Path(tempfile.mkstemp(prefix=f"skillfleet-{pool}-", suffix=".log")[1])
        self._options = tuple(options)
        self._namespace = str(settings.get("namespace", DEFAULT_NAMESPACE))
        self._prefix = Keyspace(self._namespace).shard_prefix(0)
        self._environment = os.environ | {
            "SKILLFLEET_REDIS_URL": server.url,
            "SKILLFLEET_REDIS_USERNAME": acl.user_of(acl.WORKER, self._namespace),
            "SKILLFLEET_REDIS_PASSWORD": acl.password_of(acl.WORKER),
            MODULES: modules,
            POOL: pool,
            CONCURRENCY: str(concurrency or SIZES[pool]),
            "PYTHONFAULTHANDLER": "1",
            **{f"SKILLFLEET_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start the process and return when it serves its agents."""
        self.launch()
        wait_until(self.serves, _START_SECONDS, "the worker to serve")
        return self

    def launch(self) -> None:
        """Start the process without waiting."""
        self.server.know_namespace(self._namespace)
        self.process = preloaded.start(
            *("tests.support.celery_worker", "tests.support.fleet_app"),
            *("-E", "-l", "INFO", "-n", self.name, *self._options),
            env=self._environment,
            log=self.log,
            preload=_PRELOAD,
            # A group of its own: a killed worker's children can still be found.
            new_session=True,
        )

    def serves(self) -> bool:
        """True when the worker consumes and each of its executing processes is listed."""
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"the worker ended:\n{self.text()}")
        if " ready." not in self.text():
            return False
        executing = self.children() if self.pool == "prefork" else [self.process.pid]
        with self.server.client() as client:
            listed = client.zrange(f"{self._prefix}serving", 0, -1)
        found = {int(match[1]) for name in listed if (match := re.search(rb":(\d+)-", name))}
        return bool(executing) and found.issuperset(executing)

    @property
    def name(self) -> str:
        """Celery's name of the worker; Redis users know workers by its first part."""
        return f"celery@{self.log.stem}"

    @property
    def pid(self) -> int:
        """The main process's id."""
        if self.process is None:
            raise AssertionError("the worker was not started")
        return self.process.pid

    def children(self) -> list[int]:
        """Process ids of the main process's children: with prefork, those that execute."""
        return _children(self.pid)

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone."""
        os.kill(self.pid, number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the main process and all its children, as a machine that fails."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait_end(self, timeout: float = 60.0) -> int:
        """The exit code, once the main process has ended."""
        if self.process is None:
            raise AssertionError("the worker was not started")
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL for all processes of the worker."""
        if self.process is not None:
            self.signal_all(signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        """Make sure that nothing of the worker is left."""
        self.kill()
        self.log.unlink(missing_ok=True)


@contextmanager
def fleet_starter(server: ValkeyServer) -> Iterator[Callable[..., FleetWorker]]:
    """A function that starts workers on `server` (arguments of FleetWorker); all end here."""
    with ExitStack() as stack:

        def start(modules: str, **options: Any) -> FleetWorker:
            worker = FleetWorker(server, modules, **options)
            stack.callback(worker.close)
            return worker.start()

        yield start


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in tasks.read_text().split()]
    return found
