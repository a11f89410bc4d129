"""The cleanups of an attempt, which `RunScope.defer` collects and a runtime runs at its end."""

import asyncio
import contextlib
import logging
import time
from typing import Final

from skillfleet.ports.scope import Cleanup

logger = logging.getLogger(__name__)

CLEANUP_SECONDS: Final = 10.0
"""The time limit of all cleanups of an attempt together."""
_LIVING_SECONDS: Final = 1.0
"""How long a cleanup that is under way gets, where its loop may be blocked."""
_LOOK_SECONDS: Final = 0.02


class Cleanups:
    """A list of cleanups; each runs once, the last one first. Any thread."""

    __slots__ = ("_late", "_pending", "_ran", "_under_way")

    def __init__(self) -> None:
        self._pending: list[Cleanup] = []
        self._under_way: list[Cleanup] = []
        self._late: set[asyncio.Future[None]] = set()
        self._ran = False

    def add(self, cleanup: Cleanup) -> None:
        """Run `cleanup` at the end of the attempt; at once if that has passed."""
        self._pending.append(cleanup)
        if self._ran:
            # A handler that outlives its attempt may still open resources: close them now.
            task = asyncio.ensure_future(self.run("left behind"))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    def __bool__(self) -> bool:
        """Return True while a cleanup is pending."""
        return bool(self._pending)

    async def run(self, run_id: str, seconds: float = CLEANUP_SECONDS) -> None:
        """Run all pending cleanups; log errors, and cancel a cleanup that takes too long.

        Each cleanup may take half of the remaining time, so that one that hangs leaves some for the
        others.
        """
        self._ran = True
        end = time.monotonic() + seconds
        while self._pending:
            try:
                cleanup = self._pending.pop()
            except IndexError:
                # The thread that replaces this process took it.
                return
            self._under_way.append(cleanup)
            try:
                task = asyncio.ensure_future(_contained(cleanup, run_id))
                await asyncio.wait({task}, timeout=max(end - time.monotonic(), 0) / 2)
                if not task.done():
                    task.cancel()
                    logger.error("run %s: a cleanup took too long and was cancelled", run_id)
            finally:
                with contextlib.suppress(ValueError):
                    self._under_way.remove(cleanup)

    async def take_over(self, run_id: str) -> None:
        """Run what is pending, also what is under way on a loop that is blocked: it runs again.

        For the thread that replaces a process one of whose handlers cannot be stopped.
        """
        end = time.monotonic() + _LIVING_SECONDS
        while self._under_way and time.monotonic() < end:  # noqa: ASYNC110 - of another loop
            await asyncio.sleep(_LOOK_SECONDS)
        while self._under_way:
            self._pending.append(self._under_way.pop())
        await self.run(run_id)


async def _contained(cleanup: Cleanup, run_id: str) -> None:
    try:
        await cleanup()
    except BaseException as error:  # an exit would end the process and all its runs
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        logger.exception("run %s: a cleanup failed", run_id)


def _is_cancelled() -> bool:
    """Return whether this task itself was cancelled; a cleanup may raise CancelledError too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
