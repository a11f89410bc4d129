"""Child process of `dev`: its log lines, and its guaranteed end."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence

from skillfleet_cli.dev.cleanup import CleanupProcess, signal_group
from skillfleet_cli.dev.log import Log

_LONGEST_LINE = 1 << 20


class Child:
    """One child process, the leader of its own session and process group.

    The terminal's Ctrl-C never reaches it: `dev` decides when and how it ends.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Log) -> None:
        self.name = name
        self.stopping = False
        """True once `dev` is stopping it."""
        self._process = process
        self._log = log
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        cleanup: CleanupProcess,
        log: Log,
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
        cleanup.watch(process.pid)
        return cls(name, process, log)

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await self._process.wait()

    async def stop(self, grace: float, cleanup: CleanupProcess) -> None:
        """End it and all processes it started: SIGTERM, then SIGKILL after `grace` seconds."""
        self.stopping = True
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        self.kill()
        await self._process.wait()
        cleanup.forget(self._process.pid)
        # The group's other processes held the pipe, too; they are gone now.
        await asyncio.wait([self._reading], timeout=1)
        self._reading.cancel()

    def kill(self) -> None:
        """Kill it and all processes it started."""
        self.stopping = True
        signal_group(self._process.pid, signal.SIGKILL)

    async def _read(self) -> None:
        stream = self._process.stdout
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:
                # The line exceeds the limit: asyncio has dropped it.
                continue
            if not line:
                return
            self._log.line(self.name, line.decode(errors="replace"))
