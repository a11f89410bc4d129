"""Inline execution of child runs, for pools whose slots cannot be released.

In `prefork` and `threads` pools a run that waits keeps its process or thread. When callers fill
all of them, no worker is left for their children. So a caller executes a child itself, on its
own loop, when no other worker has taken it after a moment.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from skillfleet.errors import FleetUnavailableError
from skillfleet_worker.attempts.attempt import Attempt, RunInline

logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.25, 2.0


@contextlib.asynccontextmanager
async def run_inline_if_queued(run_id: str, attempt: Attempt) -> AsyncIterator[None]:
    """Inside, where the attempt waits for the child, execute it if no worker takes it.

    On exit, wait for a child that is being executed here, unless the attempt itself is given up:
    its executor releases the child then.
    """
    if attempt.run_child_inline is None:
        yield
        return
    inline = _InlineChild(run_id, attempt, attempt.run_child_inline)
    task = asyncio.ensure_future(inline.run())
    attempt.inline_runs[task] = run_id
    task.add_done_callback(attempt.inline_runs.pop)
    try:
        yield
    except asyncio.CancelledError:
        inline.over.set()
        raise
    finally:
        if not inline.over.is_set():
            inline.over.set()
            # While the slot executes another child, there is nothing to wait for.
            if inline.executes:
                await asyncio.wait({task})
            else:
                task.cancel()


class _InlineChild:
    """Executes one child in its caller's slot if no worker takes it."""

    def __init__(self, run_id: str, attempt: Attempt, run_inline: RunInline) -> None:
        self.over = asyncio.Event()
        """Set once the caller no longer waits."""
        self.executes = False
        """True while the slot executes the child."""
        self._run_id = run_id
        self._attempt = attempt
        self._run_inline = run_inline

    async def run(self) -> None:
        """Return once the child was executed here, or the caller no longer waits."""
        wait = _FIRST_WAIT_SECONDS
        while not self._is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self.over.wait()
                    return
            wait = min(wait * 2, _MAX_WAIT_SECONDS)
            async with self._attempt.inline_lock:
                if self._is_over or not await self._try_once():
                    return

    @property
    def _is_over(self) -> bool:
        attempt = self._attempt
        return self.over.is_set() or attempt.ended or attempt.stop is not None

    async def _try_once(self) -> bool:
        """Execute the child if it is queued; False when that can never succeed."""
        self.executes = True
        try:
            with self._attempt.waiting.busy():
                await self._run_inline(self._run_id)
        except FleetUnavailableError as error:
            logger.debug("run %s is not executed by its caller: %s", self._run_id, error)
        except Exception:
            logger.exception("run %s cannot be executed by its caller", self._run_id)
            return False
        finally:
            self.executes = False
        return True
