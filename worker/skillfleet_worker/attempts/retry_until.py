"""Retry until a deadline: repeats work on Redis that a short outage interrupts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from skillfleet.errors import FleetClosedError, FleetUnavailableError
from skillfleet_ledger.redis_client.connection import RETRY_SECONDS

T = TypeVar("T")


async def retry_for(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Repeat `work` while Redis is unavailable, for `seconds` from the first failure on.

    `work` must be safe to repeat. Raises FleetUnavailableError once the time is up, and all other
    errors of `work` at once.
    """
    loop = asyncio.get_running_loop()
    end: float | None = None
    while True:
        try:
            return await work()
        except FleetClosedError:
            raise
        except FleetUnavailableError:
            end = end or loop.time() + seconds
            if loop.time() >= end:
                raise
            # A connection that is refused fails at once: the loop must turn.
            await asyncio.sleep(RETRY_SECONDS)
