"""Processes of the demo's own fleet: a Valkey server and a worker.

Each runs in its own session, so that Ctrl-C in the terminal reaches only the demo, which then ends
them in order.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from pathlib import Path

import redis

from skillfleet_cli.dev.cleanup import CleanupProcess, signal_group
from skillfleet_cli.dev.plan import server_binary
from skillfleet_ledger import Settings

CHECKOUT = Path(__file__).parents[2]
CONCURRENCY = 400
"""Concurrent runs of the worker; more than the librarian starts at once."""

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_TRIES = 3


class ServerError(Exception):
    """A process could not start, or ended early; the message has its log."""


class Server:
    """One child process. Its output goes to `<folder>/<name>.log`.

    The cleanup process ends it if the demo itself is killed.
    """

    def __init__(self, name: str, folder: Path, cleanup: CleanupProcess) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._cleanup = cleanup
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *command: str, env: dict[str, str] | None = None) -> None:
        """Start the process; raises ServerError when there is no such program."""
        with self.log.open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=CHECKOUT,
                    env=env,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServerError(f"cannot start {self.name} ({command[0]}): {error}") from error
        self._cleanup.watch(self._process.pid)

    @property
    def running(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.returncode is None

    async def died(self) -> ServerError:
        """Wait until the process ends; returns the error to raise."""
        if self._process is not None:
            await self._process.wait()
        return self.failure("ended unexpectedly")

    def failure(self, what: str) -> ServerError:
        """Build an error with the end of the process's log."""
        status = self._process.returncode if self._process else None
        ended = f" (exit status {status})" if status is not None else ""
        return ServerError(f"the {self.name} {what}{ended}. Its log ends with:\n{self._tail()}")

    async def stop(self) -> None:
        """End the process and all it has started; returns when they are gone."""
        if self._process is None:
            return
        try:
            if self.running:
                self._process.terminate()
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()
        except TimeoutError:
            pass
        finally:
            signal_group(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._cleanup.forget(self._process.pid)

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line}" for line in deque(lines, 15)) or "  (it is empty)"


async def start_valkey(server: Server, folder: Path) -> str:
    """Start a Valkey server on a free loopback port, with its data in `folder`; returns its URL.

    Raises ServerError, and CommandError when there is no server program.
    """
    program = server_binary()
    for _ in range(_TRIES):
        port = _free_port()
        await server.start(
            program,
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        )
        if await _answers(server, port):
            return f"redis://127.0.0.1:{port}/0"
        # Another program may have taken the port meanwhile.
        await server.stop()
    raise server.failure("did not start")


async def start_worker(server: Server, settings: Settings) -> None:
    """Start a worker that serves the librarian. Returns at once: enqueued runs wait for it."""
    await server.start(
        *(sys.executable, "-m", "skillfleet_cli", "worker", "examples.librarian", "--quiet"),
        *("--concurrency", str(CONCURRENCY), "--log-level", "warning"),
        env=_environment(settings),
    )


def fleet_settings(url: str) -> Settings:
    """Return the demo's settings, independent of the fleet in the environment."""
    return Settings.load(
        redis_url=url,
        redis_username=None,
        redis_password=None,
        redis_ca_file=None,
        broker_url=None,
        namespace="demo",
        shards=1,
        # One child run per file, however many a folder has.
        max_tree_runs=1_000_000,
    )


def _environment(settings: Settings) -> dict[str, str]:
    """Build the worker's environment: ours without the settings of another fleet."""
    ours = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - for a child process
        if not name.startswith(("SKILLFLEET_", "CELERY_"))
    }
    return ours | {
        "SKILLFLEET_REDIS_URL": settings.redis_url,
        "SKILLFLEET_NAMESPACE": settings.namespace,
        "SKILLFLEET_MAX_TREE_RUNS": str(settings.max_tree_runs),
        "SKILLFLEET_DRAIN_SECONDS": "2",
    }


async def _answers(server: Server, port: int) -> bool:
    """Return True once the server accepts commands, False if it ended instead."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_SECONDS):
            while server.running:
                if await asyncio.to_thread(_ping, port):
                    return True
                await asyncio.sleep(0.02)
    return False


def _ping(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
