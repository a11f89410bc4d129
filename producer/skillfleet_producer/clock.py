"""Redis time without a round trip each: this machine's clock, corrected now and then."""

import time

from skillfleet_ledger import Ledger

_FRESH_SECONDS = 60.0


class RedisClock:
    """All times in the ledger are Redis time; this tells it to within a round trip."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ahead_ms = 0.0
        self._read_at = float("-inf")

    async def now_ms(self) -> float:
        """Milliseconds since the epoch by Redis time; raises FleetUnavailableError."""
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            before = time.time()
            redis_ms = await self._ledger.directory.now_ms()
            self._ahead_ms = redis_ms - (before + time.time()) / 2 * 1000
            self._read_at = time.monotonic()
        return time.time() * 1000 + self._ahead_ms
