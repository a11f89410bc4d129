"""Wait for conditions, not for time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 20.0, what: str = "") -> T:
    """Poll `condition` until it is truthy and return it; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain for {what or condition}")
        time.sleep(0.01)
    return value


def shortest(limit: float, measure: Callable[[], float], tries: int = 4) -> float:
    """The least of what `measure` gives, tried again only while that is not below `limit`.

    For promises of a time: what a busy machine adds to one try is not the fleet's.
    """
    least = measure()
    for _ in range(tries - 1):
        if least < limit:
            break
        least = min(least, measure())
    return least


async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout: float = 20.0, what: str = ""
) -> T:
    """Like `wait_until`, for a condition that must be awaited."""
    end = time.monotonic() + timeout
    while not (value := await condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain for {what or condition}")
        await asyncio.sleep(0.01)
    return value
