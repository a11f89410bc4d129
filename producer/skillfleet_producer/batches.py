"""Lists of events, each awaited for a limited time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from skillfleet.errors import ResultTimeoutError

EventT = TypeVar("EventT")


async def batches_within(
    batches: AsyncIterator[list[EventT]], timeout: float | None, what: str
) -> AsyncGenerator[list[EventT], None]:
    """Yield the lists of `batches`, a generator that is closed with this one.

    Raises ResultTimeoutError when no list comes within `timeout` seconds; `what` says in its
    message what was awaited.
    """
    try:
        while True:
            try:
                async with asyncio.timeout(timeout):
                    batch = await anext(batches)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ResultTimeoutError(f"waited {timeout} s for {what}") from None
            yield batch
    finally:
        await batches.aclose()  # type: ignore[attr-defined]
