"""Redis time from the local clock, corrected once a minute."""

import time

from skillfleet_ledger.directory import Directory

_FRESH_SECONDS = 60.0


class RedisClock:
    """An estimate of Redis time, in which the ledger keeps all times, to within a round trip."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._ahead_ms = 0.0
        self._read_at = float("-inf")

    async def now_ms(self) -> float:
        """Return milliseconds since the epoch by Redis time; raises FleetUnavailableError."""
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            before = time.time()
            redis_ms = await self._directory.now_ms()
            self._ahead_ms = redis_ms - (before + time.time()) / 2 * 1000
            self._read_at = time.monotonic()
        return time.time() * 1000 + self._ahead_ms
