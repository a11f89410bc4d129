"""Running `skillfleet` as a user does: in a process of its own.

A command that is run to its end is a fork of a process that has the libraries loaded, but not the
modules of the command line.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import acl, preloaded
from tests.support.waiting import wait_until

AGENTS = str(Path(__file__).with_name("agents.py"))
SKILLFLEET = (sys.executable, "-m", "skillfleet_cli")
_PATIENCE_SECONDS = 60
_PRELOAD = (
    *("typer", "rich.console", "rich.progress", "rich.table"),
    *("skillfleet_ledger", "skillfleet_producer"),
)
_WORKERS_VERBS = ("worker", "dead", "doctor", "exporter")


@dataclass(frozen=True)
class Result:
    """The end of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The command's output as JSON."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        """The JSON of each line it printed."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Shell:
    """Runs commands against one fleet, in one folder.

    With `users`, as a fleet's people do: as the producer, and for what a producer may not do
    as the worker.
    """

    url: str
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    users: bool = False

    def environment(self, verb: str = "") -> dict[str, str]:
        """The environment of a command: nothing of ours, no colours, one time zone."""
        user = acl.WORKER if verb in _WORKERS_VERBS else acl.PRODUCER
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("SKILLFLEET")
        }
        return {
            **inherited,
            "SKILLFLEET_REDIS_URL": acl.as_user(self.url, user) if self.users else self.url,
            "NO_COLOR": "1",
            **self.settings,
        }

    def run(self, *arguments: str, stdin: str = "") -> Result:
        """Run a command to its end."""
        ended = preloaded.run(
            SKILLFLEET[-1],
            *arguments,
            env=self.environment(arguments[0]),
            cwd=self.folder,
            stdin=stdin,
            preload=_PRELOAD,
            timeout=_PATIENCE_SECONDS,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def ok(self, *arguments: str, stdin: str = "") -> Result:
        """Run a command that must succeed."""
        result = self.run(*arguments, stdin=stdin)
        assert result.code == 0, result
        return result

    def enqueue(self, *arguments: str) -> str:
        """Enqueue a run and return its id."""
        return self.ok("enqueue", *arguments).out.strip()

    def finished(self, *arguments: str) -> str:
        """Enqueue a run, wait for its end and return its id."""
        lines = self.run("enqueue", *arguments, "--follow", "--json").json_lines
        return str(lines[0]["id"])

    @contextmanager
    def start(self, *arguments: str, log: Path) -> Iterator["Running"]:
        """A command that goes on; killed at the end should it still run."""
        with log.open("w") as file:
            process = subprocess.Popen(
                [*SKILLFLEET, *arguments],
                cwd=self.folder,
                env=self.environment(arguments[0]),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Running(process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@dataclass(frozen=True)
class Running:
    """A command that goes on, with all its output in one log."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def text(self) -> str:
        """Return the output so far, of stdout and stderr."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, count: int = 1) -> "re.Match[str]":
        """Wait until `pattern` was printed `count` times; the last match."""

        def found() -> "re.Match[str] | None":
            matches = list(re.finditer(pattern, self.text))
            if len(matches) < count and self.process.poll() is not None:
                raise AssertionError(f"it ended without {pattern!r}:\n{self.text}")
            return matches[count - 1] if len(matches) >= count else None

        match = wait_until(found, _PATIENCE_SECONDS, f"{pattern!r} in {self.log}")
        assert match is not None
        return match

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command alone."""
        self.process.send_signal(number)

    def wait_end(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(_PATIENCE_SECONDS)

    def children(self) -> list[int]:
        """Ids of the processes that the command started itself and that live."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in listed.stdout.splitlines()]
        mine = str(self.process.pid)
        return [int(pid) for pid, parent, state in rows if parent == mine and state[0] != "Z"]


def alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    state = _ps("stat=", pid)
    return bool(state) and not state.startswith("Z")


def command_line(pid: int) -> str:
    """The program of a process and its arguments."""
    return _ps("args=", pid)


def _ps(what: str, pid: int) -> str:
    command = ["ps", "-ww", "-o", what, "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
