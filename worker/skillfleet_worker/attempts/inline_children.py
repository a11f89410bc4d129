"""How callers do not starve those they call in pools whose slots cannot be given back.

In `prefork` and `threads` pools a run that waits keeps its process or thread. When callers fill all
of them, nobody is left for what they call. So a caller executes a called run itself, on its own
loop, when nobody else has taken it for a moment.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from skillfleet.errors import FleetUnavailableError
from skillfleet_worker.attempts.attempt import Attempt, RunInline

logger = logging.getLogger(__name__)

_SHORTEST_MOMENT, _LONGEST_MOMENT = 0.25, 2.0


@contextlib.asynccontextmanager
async def lent_to(run_id: str, attempt: Attempt) -> AsyncIterator[None]:
    """Inside, the attempt waits for the run and lends it its slot.

    A run that is being executed here is waited for on leaving, unless the attempt itself is given
    up: its executor releases the run then.
    """
    if attempt.run_child_inline is None:
        yield
        return
    lending = _Lending(run_id, attempt, attempt.run_child_inline)
    task = asyncio.ensure_future(lending.run())
    attempt.inline_runs[task] = run_id
    task.add_done_callback(attempt.inline_runs.pop)
    try:
        yield
    except asyncio.CancelledError:
        lending.over.set()
        raise
    finally:
        if not lending.over.is_set():
            lending.over.set()
            # While another call has the slot, this one has nothing to wait for.
            if lending.executes:
                await asyncio.wait({task})
            else:
                task.cancel()


class _Lending:
    """Executes one called run in its caller's slot, should nobody else take it."""

    def __init__(self, run_id: str, attempt: Attempt, lend: RunInline) -> None:
        self.over = asyncio.Event()
        """Set once the caller waits no more."""
        self.executes = False
        """True from when the slot is lent."""
        self._run_id = run_id
        self._attempt = attempt
        self._lend = lend

    async def run(self) -> None:
        """Return once the run was executed here, or the caller waits no more."""
        moment = _SHORTEST_MOMENT
        while not self._is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(moment):
                    await self.over.wait()
                    return
            moment = min(moment * 2, _LONGEST_MOMENT)
            async with self._attempt.inline_lock:
                if self._is_over or not await self._lent():
                    return

    @property
    def _is_over(self) -> bool:
        attempt = self._attempt
        return self.over.is_set() or attempt.ended or attempt.stop is not None

    async def _lent(self) -> bool:
        """RunInline the slot; False when that fails for good."""
        self.executes = True
        try:
            await self._lend(self._run_id)
        except FleetUnavailableError as error:
            logger.debug("run %s is not executed by its caller: %s", self._run_id, error)
        except Exception:
            logger.exception("run %s cannot be executed by its caller", self._run_id)
            return False
        finally:
            self.executes = False
        return True
