"""Clocks of local runs: one that runs, and one whose pauses end at once."""

import asyncio
import heapq
import itertools
import time
from abc import ABC, abstractmethod
from typing import Final

_TURNS: Final = 10
"""The turns of the loop in which others may begin or end something before time moves on."""


class Clock(ABC):
    """The time by which waits of a `LocalRunContext` begin and end."""

    @abstractmethod
    def now(self) -> float:
        """Return the time in seconds since the epoch."""

    @abstractmethod
    async def sleep_until(self, due: float) -> None:
        """Return at a time, in seconds since the epoch."""


class WallClock(Clock):
    """The clock of the machine."""

    def now(self) -> float:
        """Return the time of the machine."""
        return time.time()

    async def sleep_until(self, due: float) -> None:
        """Return when it is as late as that."""
        await asyncio.sleep(max(due - time.time(), 0))


class InstantClock(Clock):
    """A clock that jumps to the end of each wait, for tests: `LocalRunContext(clock=...)`.

    `ctx.sleep` returns at once, and a wait with a timeout expires unless its answer is there.
    Waits of several tasks end in the order of their times.
    """

    def __init__(self, start: float | None = None) -> None:
        """`start` is in seconds since the epoch; None: the present."""
        self._now = time.time() if start is None else start
        self._due: list[tuple[float, int]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Return the time that the waits have reached."""
        return self._now

    async def sleep_until(self, due: float) -> None:
        """Return once all earlier waits have ended."""
        own = (due, next(self._numbers))
        heapq.heappush(self._due, own)
        try:
            while True:
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                if self._due[0] == own:
                    break
            self._now = max(self._now, due)
        finally:
            self._due.remove(own)
            heapq.heapify(self._due)
