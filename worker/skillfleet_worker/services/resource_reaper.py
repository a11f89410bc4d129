"""The resource reaper: ends external resources whose attempt no longer holds its lease."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from skillfleet.errors import FleetUnavailableError
from skillfleet.ports.provider import ReapingProvider
from skillfleet_ledger import Ledger

logger = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 60.0
"""The time limit of a provider for one round."""


class ResourceReaper:
    """Calls `reap` of each provider, at the start of the process and in every lease time.

    Every process does so, since resources may be local to its machine.
    """

    def __init__(
        self, ledger: Ledger, providers: Sequence[ReapingProvider[Any]], pause_seconds: float
    ) -> None:
        self._ledger = ledger
        self._providers = tuple(providers)
        self._pause = pause_seconds

    async def run(self) -> None:
        """Reap until cancelled."""
        while self._providers:
            for provider in self._providers:
                await self._reap(provider)
            await asyncio.sleep(self._pause)

    async def holds_lease(self, run_id: str, lease: str) -> bool:
        """Return whether the attempt with this lease still runs; raises FleetUnavailableError."""
        if not lease.isdecimal():
            return False
        timeout = self._ledger.settings.redis_timeout_seconds
        return bool(await self._ledger.leases.held({run_id: int(lease)}, timeout))

    async def _reap(self, provider: ReapingProvider[Any]) -> None:
        name = type(provider).__name__
        try:
            async with asyncio.timeout(_ROUND_SECONDS):
                await provider.reap(self.holds_lease)
        except (FleetUnavailableError, TimeoutError, OSError) as error:
            logger.warning("the resources of %s are reaped later: %s", name, error)
        except Exception:
            logger.exception("the resources of %s could not be reaped", name)
