"""The demo as a process, and how a test looks into it."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from examples.librarian import Survey
from skillfleet_ledger.keys import Keyspace
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PREFIX = Keyspace("demo").shard_prefix(0)
_END_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """The output of a finished demo."""

    status: int
    output: str
    out: Path
    """Where it saved artifacts."""

    @property
    def survey(self) -> Survey:
        """The data that it saved."""
        (path,) = self.out.glob("*/survey.json")
        return Survey.model_validate_json(path.read_text())

    @property
    def report(self) -> str:
        """The report that it saved."""
        (path,) = self.out.glob("*/report.md")
        return path.read_text()


class Demo:
    """`python -m examples.demo`, with all its files below `scratch`."""

    def __init__(self, folder: Path, scratch: Path, **environment: str) -> None:
        self.out = scratch / "out"
        self.temporary = scratch / "tmp"
        self.temporary.mkdir(parents=True)
        self._log = scratch / "demo.log"
        self._seen: set[int] = set()
        command = [sys.executable, "-m", "examples.demo", "--folder", str(folder)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--out", str(self.out)],
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.temporary), "COLUMNS": "200"} | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Return the output so far."""
        return self._log.read_text(errors="replace")

    def wait_output(self, text: str) -> None:
        """Wait until it has printed `text`; fail when it ends before."""
        wait_until(lambda: text in self.output or self.process.poll() is not None, _END_SECONDS)
        assert text in self.output, self.output

    def server(self, name: str) -> int:
        """The process id of its 'valkey' or 'worker', once that runs."""
        mark = {"valkey": b"valkey-server", "worker": b"skillfleet_cli\0worker"}[name]

        def find() -> int | None:
            assert self.process.poll() is None, self.output
            for pid in self._children():
                with suppress(OSError):
                    if mark in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            return None

        pid = wait_until(find, what=f"the demo's {name}")
        assert pid is not None
        return pid

    def ledger(self) -> redis.Redis:
        """A client of its server; the caller closes it."""
        environment = Path(f"/proc/{self.server('worker')}/environ").read_bytes().split(b"\0")
        (url,) = [each for each in environment if each.startswith(b"SKILLFLEET_REDIS_URL=")]
        return redis.Redis.from_url(url.decode().partition("=")[2], decode_responses=True)

    def end(self) -> Ended:
        """Wait for its end; fail when anything of it is left."""
        status = self.process.wait(_END_SECONDS)
        assert self.is_gone(), f"something still runs, or its folder is there:\n{self.output}"
        return Ended(status, self.output, self.out)

    def is_gone(self) -> bool:
        """True when no process that it started is left, and no temporary file."""
        running = any(Path(f"/proc/{pid}").exists() for pid in self._seen)
        return not running and not any(self.temporary.iterdir())

    def kill(self) -> None:
        """End whatever is left, for a test that failed."""
        self._children()
        for pid in {self.process.pid, *self._seen}:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()

    def _children(self) -> list[int]:
        """Its child processes now; `end` makes sure that none of them outlives it."""
        found: list[int] = []
        for tasks in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(child) for child in tasks.read_text().split()]
        self._seen.update(found)
        return found
