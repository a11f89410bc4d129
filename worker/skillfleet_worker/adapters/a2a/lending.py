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
from skillfleet_worker.runtime.attempt import Attempt, Lend

logger = logging.getLogger(__name__)

_SHORTEST_MOMENT, _LONGEST_MOMENT = 0.25, 2.0


@contextlib.asynccontextmanager
async def lent_to(run_id: str, attempt: Attempt) -> AsyncIterator[None]:
    """Inside, the attempt waits for the run and lends it its slot.

    A run that is being executed here is waited for on leaving, unless the attempt itself is given
    up: its executor releases the run then.
    """
    if attempt.lend is None:
        yield
        return
    over = asyncio.Event()
    lending = asyncio.ensure_future(_lend(run_id, attempt, attempt.lend, over))
    attempt.lent[lending] = run_id
    lending.add_done_callback(attempt.lent.pop)
    try:
        yield
    except asyncio.CancelledError:
        over.set()
        raise
    finally:
        if not over.is_set():
            over.set()
            await asyncio.wait({lending})


async def _lend(run_id: str, attempt: Attempt, lend: Lend, over: asyncio.Event) -> None:
    moment = _SHORTEST_MOMENT
    while not over.is_set() and not attempt.ended:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(moment):
                await over.wait()
                return
        moment = min(moment * 2, _LONGEST_MOMENT)
        async with attempt.lending:
            if attempt.stop is not None or attempt.ended or over.is_set():
                return
            try:
                await lend(run_id)
            except FleetUnavailableError as error:
                logger.debug("run %s is not executed by its caller: %s", run_id, error)
            except Exception:
                logger.exception("run %s cannot be executed by its caller", run_id)
                return
