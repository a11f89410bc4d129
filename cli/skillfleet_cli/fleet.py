"""A fleet that is open for one command."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from skillfleet_producer import AsyncFleet

T = TypeVar("T")


def with_fleet(work: Callable[[AsyncFleet], Coroutine[Any, Any, T]]) -> T:
    """Run `work` with the fleet of the settings, on a new event loop."""

    async def session() -> T:
        async with AsyncFleet() as fleet:
            return await work(fleet)

    return asyncio.run(session())
