"""A process that `dev` started: its log lines, and its certain end."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence

from skillfleet_cli.dev.guard import Guard, signal_group
from skillfleet_cli.dev.log import Log

_LONGEST_LINE = 1 << 20


class Child:
    """One child process, leader of a session and process group of its own.

    The terminal's Ctrl-C so never reaches it: `dev` decides when and how it ends.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Log) -> None:
        self.name = name
        self.stopping = False
        """True once its end is wanted."""
        self._process = process
        self._log = log
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], env: Mapping[str, str], guard: Guard, log: Log
    ) -> "Child":
        """Start a command; its output goes to the log, line by line."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
        guard.watch(process.pid)
        return cls(name, process, log)

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        return await self._process.wait()

    async def stop(self, patience: float, guard: Guard) -> None:
        """End it and whatever it started: SIGTERM, then SIGKILL after `patience` seconds."""
        self.stopping = True
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._process.wait()
        self.kill()
        await self._process.wait()
        guard.forget(self._process.pid)
        # What the group's other processes still held of the pipe is gone with them.
        await asyncio.wait([self._reading], timeout=1)
        self._reading.cancel()

    def kill(self) -> None:
        """End it and whatever it started at once."""
        self.stopping = True
        signal_group(self._process.pid, signal.SIGKILL)

    async def _read(self) -> None:
        stream = self._process.stdout
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:
                # A line longer than any log's: asyncio has dropped it.
                continue
            if not line:
                return
            self._log.line(self.name, line.decode(errors="replace"))
