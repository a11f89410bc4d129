"""A fleet for the time of one command."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from skillfleet_producer import AsyncFleet

T = TypeVar("T")


def with_fleet(work: Callable[[AsyncFleet], Coroutine[Any, Any, T]]) -> T:
    """Do `work` with the fleet of the settings, on an event loop of its own."""

    async def session() -> T:
        async with AsyncFleet() as fleet:
            return await work(fleet)

    return asyncio.run(session())
