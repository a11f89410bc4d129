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
