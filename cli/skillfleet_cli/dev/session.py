"""Session of `dev`: start everything, restart the worker on changes, end everything."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from skillfleet_cli.dev.child import Child
from skillfleet_cli.dev.cleanup import CleanupProcess
from skillfleet_cli.dev.log import Log
from skillfleet_cli.dev.plan import Plan, server_binary
from skillfleet_cli.exits import CommandError, ExitCode
from skillfleet_ledger import Settings

_GRACE_SECONDS = 8.0
"""The time a process may take to end after SIGTERM; more than the worker's drain."""
_START_SECONDS = 15.0
_PAUSE_SECONDS = 1.0
"""Pause before a crashed worker starts again."""
_POLL_SECONDS = 0.05
_PYTHON = (sys.executable, "-P", "-m")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Session:
    """The processes of one `skillfleet dev`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._environment = plan.environment(settings)
        self._log = Log()
        self._cleanup = CleanupProcess()
        self._server: Child | None = None
        self._others: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._again: asyncio.Queue[str] = asyncio.Queue()
        """Reasons to start the worker again."""
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run the fleet until a signal; raises CommandError when the server ends or fails."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._interrupted)
        try:
            self._begin(self._serve())
            await self._end
        finally:
            await self._close()

    async def _serve(self) -> None:
        """Start everything; reload until cancelled."""
        await self._start_server()
        if self._plan.flower_port is not None:
            await self._start("flower", self._flower_command(self._plan.flower_port))
        self._introduce()
        self._begin(self._watch_files())
        while True:
            worker = await self._start("worker", self._worker_command())
            reason = await self._again.get()
            self._log.say(f"{reason}: starting the worker again")
            await worker.stop(_GRACE_SECONDS, self._cleanup)
            self._others.remove(worker)

    async def _watch_files(self) -> None:
        # Imported here: this module must be importable without the extra [dev].
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415

        try:
            async for changes in awatch(*self._plan.folders(), watch_filter=PythonFilter()):
                names = sorted({Path(path).name for _, path in changes})
                self._again.put_nowait(f"{', '.join(names)} changed")
        except (OSError, RuntimeError) as error:
            # Too many folders for the system's limits, as a rule.
            self._log.say(f"changes are not noticed: {error}", "bold red")

    async def _start_server(self) -> None:
        self._server = await self._child("valkey", self._server_command())
        self._begin(self._server_lost(self._server))
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await _answers(self._plan.redis_port):  # noqa: ASYNC110 - a process
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            message = f"the Valkey server did not answer within {_START_SECONDS:g} s"
            raise CommandError(message, ExitCode.FAILED) from None

    async def _server_lost(self, server: Child) -> None:
        code = await server.wait()
        raise CommandError(f"the Valkey server ended with code {code}", ExitCode.FAILED)

    async def _start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process that may end without ending `dev`."""
        child = await self._child(name, command)
        self._others.append(child)
        self._begin(self._report_end(child))
        return child

    async def _report_end(self, child: Child) -> None:
        code = await child.wait()
        if child.stopping:
            return
        ended = f"{child.name} ended with code {code}"
        if child.name != "worker":
            self._log.say(ended, "bold red")
        elif code == ExitCode.USAGE:
            self._log.say(f"{ended}; it starts again when a file changes", "bold red")
        else:
            await asyncio.sleep(_PAUSE_SECONDS)
            self._again.put_nowait(ended)

    async def _child(self, name: str, command: Sequence[str]) -> Child:
        return await Child.start(name, command, self._environment, self._cleanup, self._log)

    async def _close(self) -> None:
        """End all processes, the server last, and delete the temporary data."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.stop(_GRACE_SECONDS, self._cleanup) for child in self._others))
        if self._server is not None:
            await self._server.stop(_GRACE_SECONDS, self._cleanup)
        await asyncio.to_thread(self._cleanup.close)

    def _interrupted(self) -> None:
        if not self._end.done():
            self._end.set_result(None)
            self._log.say("stopping; Ctrl-C again kills everything")
            return
        for child in [*self._others, *([self._server] if self._server else [])]:
            child.kill()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that ends `dev` when it fails."""

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) and not self._end.done():
                self._end.set_exception(error)

        task = asyncio.create_task(work)
        task.add_done_callback(done)
        self._tasks.append(task)

    def _introduce(self) -> None:
        plan = self._plan
        client = plan.client_variables(self._settings)
        data = str(plan.data_dir) if plan.data_dir is not None else "a temporary folder"
        lines = {
            "redis": f"{plan.url}, data in {data}",
            "flower": f"http://127.0.0.1:{plan.flower_port}" if plan.flower_port else "",
            "worker": f"{' '.join(plan.modules)}, restarts when a .py file changes",
            "skills": f"{client}skillfleet agents",
            "enqueue": f"{client}skillfleet enqueue fleet.echo --arg text=hello --follow",
            "note": "authentication is off: anyone who reaches these ports can do anything",
        }
        for name, text in lines.items():
            if text:
                self._log.say(f"{name:<8} {text}", "yellow" if name == "note" else "")
        self._log.say("Ctrl-C stops all of it")

    def _server_command(self) -> list[str]:
        return [
            server_binary(),
            *("--port", str(self._plan.redis_port), "--bind", "127.0.0.1", "--loglevel", "warning"),
            *("--dir", self._data_folder(), "--appendonly", "yes", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--stream-node-max-bytes", "1024"),
            # A rewrite forks the server; the default of 64 MiB is one large artifact.
            *("--auto-aof-rewrite-min-size", "256mb"),
        ]

    def _data_folder(self) -> str:
        if self._plan.data_dir is not None:
            self._plan.data_dir.mkdir(parents=True, exist_ok=True)
            return str(self._plan.data_dir.resolve())
        folder = tempfile.mkdtemp(prefix="skillfleet-dev-")
        self._cleanup.delete(folder)
        return folder

    def _worker_command(self) -> list[str]:
        # -E: without it, Flower misses the runs before its first look at the worker.
        return [*_PYTHON, "skillfleet_cli", "worker", "--quiet", *self._plan.modules, "--", "-E"]

    def _flower_command(self, port: int) -> list[str]:
        where = ("--address=127.0.0.1", f"--port={port}")
        return [*_PYTHON, "celery", "--quiet", "-A", "skillfleet_worker.app", "flower", *where]


async def _answers(port: int) -> bool:
    """Return True when a server accepts commands on the port."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return (await reader.readline()).startswith(b"+PONG")
    except OSError:
        return False
    finally:
        writer.close()
