"""Retries of operations that failed because Redis was unreachable."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from skillfleet.errors import FleetClosedError, FleetUnavailableError
from skillfleet_ledger.redis_client.protocol import pause_after

T = TypeVar("T")
Retryable = type[Exception] | tuple[type[Exception], ...]


async def retry_until(
    seconds: float,
    work: Callable[[], Awaitable[T]],
    *,
    on: Retryable = FleetUnavailableError,
    check: Callable[[Exception], None] | None = None,
) -> T:
    """Repeat `work`, which must be safe to repeat, until it does not fail with `on`.

    The error is raised when `seconds` have passed since the first failure, and at once when it is
    a FleetClosedError. `check` sees each error, and may raise another one instead.
    """
    deadline: float | None = None
    while True:
        try:
            return await work()
        except FleetClosedError:
            raise
        except on as error:
            if check is not None:
                check(error)
            now = time.monotonic()
            deadline = deadline or now + seconds
            if now >= deadline:
                raise
            await asyncio.sleep(pause_after(error))
