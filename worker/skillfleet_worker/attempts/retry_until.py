"""Waiting for Redis on a handler's behalf: a short outage is no reason to fail an attempt."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from skillfleet.errors import FleetClosedError, FleetUnavailableError

T = TypeVar("T")
_PAUSE_SECONDS = 0.2


async def patiently(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Do what may be repeated without harm until it is not Redis that prevents it.

    Raises FleetUnavailableError when Redis is away for `seconds` from the first failure on.
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
            await asyncio.sleep(_PAUSE_SECONDS)
