"""Real worker processes of the test project."""

import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import redis

from tests.engine.project import BROKER, JOURNAL, SETTINGS, make_app
from tests.support import preloaded
from tests.support.waiting import wait_until

LOOP = {
    "worker_pool": "skillfleet_engine:LoopPool",
    "worker_consumer": "skillfleet_engine:LoopConsumer",
}
POOLS: dict[str, dict[str, Any]] = {
    "loop": LOOP,
    "threads": {"worker_pool": "threads"},
    "prefork": {"worker_pool": "prefork"},
}
_PRELOAD = (
    "tests.support.celery_worker",
    "skillfleet_engine.celery_hooks.consumer",
    "skillfleet_engine.celery_hooks.pool",
    "skillfleet_engine.celery_hooks.task",
    "skillfleet_engine.transport.transport",
)


class Worker:
    """One `celery worker` process and the client that talks to it."""

    def __init__(
        self, url: str, folder: Path, pool: str, concurrency: int, **settings: Any
    ) -> None:
        self.pool = pool
        self.app = make_app(url)
        self.redis = redis.Redis.from_url(url, socket_timeout=10)
        self.log = folder / "worker.log"
        self._journal = folder / "journal"
        self._journal.touch()
        self._sent: list[Any] = []
        environment = os.environ | {
            BROKER: url,
            JOURNAL: str(self._journal),
            SETTINGS: json.dumps(POOLS[pool] | settings),
            "PYTHONWARNINGS": "default",
        }
        options = ["--without-gossip", "--without-mingle", "-E", "-n", f"{pool}@%h", "-l", "INFO"]
        self.process = preloaded.start(
            *("tests.support.celery_worker", "tests.engine.project"),
            *(*options, "-c", str(concurrency)),
            env=environment,
            log=self.log,
            preload=_PRELOAD,
        )

    def wait_ready(self) -> "Worker":
        wait_until(self._is_ready, 60, f"the worker to be ready\n{self.log}")
        return self

    def _is_ready(self) -> bool:
        text = self.log.read_text()
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended:\n{text}")
        return " ready." in text

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Publish a task of the project by its short name."""
        result = self.app.send_task(f"tests.engine.project.{task}", args, **options)
        self._sent.append(result)
        return result

    def call(self, task: str, *args: Any, **options: Any) -> Any:
        """Publish a task and return its result."""
        return self.send(task, *args, **options).get(timeout=30)

    def entries(self, event: str, id: str | None = None) -> list[dict[str, Any]]:
        """Return the journal's entries of an event, optionally of one task."""
        # The last line may be incomplete.
        lines = self._journal.read_text().rpartition("\n")[0].splitlines()
        found = [entry for entry in map(json.loads, lines) if entry["event"] == event]
        return [entry for entry in found if id is None or entry.get("id") == id]

    def wait_for(self, event: str, id: str | None = None, count: int = 1) -> dict[str, Any]:
        """Wait until the journal has `count` entries of an event; return the last of them."""
        what = f"{event} of {id}; the worker's log is {self.log}"
        wait_until(lambda: len(self.entries(event, id)) >= count, what=what)
        return self.entries(event, id)[-1]

    def inspect(self, what: str) -> Any:
        """Return the worker's answer to `celery inspect`."""
        control = self.app.control.inspect(timeout=5, limit=1)
        (answer,) = wait_until(getattr(control, what), what=f"inspect {what}").values()
        return answer

    def control(self, command: str, *args: Any) -> None:
        """Send a remote control command and wait until the worker has executed it."""
        assert getattr(self.app.control, command)(*args, reply=True, timeout=5, limit=1)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_end(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        # A result object that is collected after its server has stopped would wait for it.
        for result in self._sent:
            result.backend = None
        gc.collect()
        self.app.close()
        self.redis.close()
