"""The warm sandboxes of a process: started before they are asked for, each used once."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from skillfleet.errors import SkillfleetError
from skillfleet_adapters.sandbox.process import SandboxProcess

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.1
"""Between a use and the start of the next sandbox, so that a short command is not slowed down."""


class WarmSandboxes:
    """Sandboxes without an attempt, which have executed nothing.

    They are started after the first use, and end when none was used for `idle_seconds`.
    Concurrency: `take` from any thread; the rest on the home loop, whose thread they end with.
    """

    def __init__(
        self, start: Callable[[], Awaitable[SandboxProcess]], size: int, idle_seconds: float
    ) -> None:
        self._start = start
        self.size = size
        """How many are kept ready."""
        self._idle_seconds = idle_seconds
        self._ready: deque[SandboxProcess] = deque()
        self._refused: deque[SandboxProcess] = deque()
        self._used = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        """Return how many are ready."""
        return len(self._ready)

    def take(self, fits: Callable[[SandboxProcess], bool]) -> SandboxProcess | None:
        """Return one that runs and fits, which now belongs to the caller; None without one."""
        while True:
            try:
                process = self._ready.popleft()
            except IndexError:
                return None
            if process.alive and fits(process):
                return process
            self._refused.append(process)

    async def refill(self) -> None:
        """Start what is missing in the background, after a sandbox was used; returns at once."""
        if not self.size or self._closed:
            return
        if self._keeping is None or self._keeping.done():
            self._used = asyncio.Event()
            self._keeping = asyncio.ensure_future(self._keep())
        self._used.set()

    async def aclose(self) -> None:
        """End them all, for good."""
        self._closed = True
        if self._keeping is not None and not self._keeping.done():
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._ending is not None:
            # It may go on after the task that began it was cancelled.
            await self._ending

    async def _keep(self) -> None:
        """Start sandboxes after each use, until there is none for some time; then end them."""
        try:
            while await self._was_used():
                await asyncio.sleep(_PAUSE_SECONDS)
                self._used.clear()
                await _end(self._refused)
                while len(self._ready) < self.size:
                    self._ready.append(await self._start())
        except (SkillfleetError, OSError) as error:
            logger.warning("no sandbox is kept warm until the next use: %s", error)
        finally:
            self._ending = asyncio.ensure_future(_end(self._refused, self._ready))
            await asyncio.shield(self._ending)

    async def _was_used(self) -> bool:
        try:
            async with asyncio.timeout(self._idle_seconds):
                await self._used.wait()
        except TimeoutError:
            return False
        return True


async def _end(*queues: deque[SandboxProcess]) -> None:
    for queue in queues:
        while queue:
            await queue.popleft().end()
