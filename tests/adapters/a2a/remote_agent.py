"""A remote agent in a process of its own (untrusted_peer.py), and a fleet that may call it."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skillfleet_producer import Fleet
from tests.support.fleet import ROOT, FleetWorker
from tests.support.ports import free_port
from tests.support.tls import write_certificate
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

COMMAND = (sys.executable, "-m", "tests.adapters.a2a.untrusted_peer")


class RemoteAgent:
    """A process with the agent, and its journal."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self.port = free_port()
        self.certificate, key = write_certificate(folder)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        certified = (str(self.certificate), str(key)) if tls else ()
        self.journal = folder / "journal"
        self.journal.touch()
        self.process = subprocess.Popen(
            [*COMMAND, str(self.port), str(self.journal), *certified],
            cwd=ROOT,
        )
        try:
            wait_until(self._answers, 60, "the remote agent")
        except BaseException:
            self.close()
            raise

    def noted(self, word: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [entry for entry in entries if entry["word"] == word]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


@contextmanager
def calling_fleet(**settings: Any) -> Iterator[ValkeyServer]:
    """A fleet that may call 127.0.0.1 (listed as an address) and the name `partner.test`."""
    with (
        running_server() as server,
        FleetWorker(
            server,
            "tests.auth.agents",
            a2a_hosts="127.0.0.1/32, partner.test",
            a2a_credentials="127.0.0.1=partner-token",
            a2a_max_response_bytes=1_000_000,
            secret_partner_token="token-for-the-partner",
            **settings,
        ),
    ):
        yield server


def ask(fleet: Fleet, target: str, skill: str, **args: Any) -> Any:
    """Return what a run got when it called the agent at `target`."""
    run = fleet.enqueue("caller.asks", {"target": target, "skill": skill, **args})
    return run.result(timeout=30)
