"""The object sweeper: deletes objects in the object store that nothing refers to any more."""

import asyncio
import logging
from typing import Final

from skillfleet.errors import FleetUnavailableError, ObjectStoreError
from skillfleet_ledger import Ledger
from skillfleet_ledger.redis_client.outage import Outage
from skillfleet_ledger.runs.objects import RunObjects

logger = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 300.0


class ObjectSweeper:
    """Sweeps all shards while there is something to delete, then at each pause.

    Every process that executes runs does so: they share the work, as each object is given to one
    of them. The main process of the pool `prefork` must not use the object store, since the
    processes that it forks later could not use it any more.
    """

    def __init__(self, ledger: Ledger, objects: RunObjects, pause_seconds: float) -> None:
        self._ledger = ledger
        self._objects = objects
        self._pause = pause_seconds
        self._outage = Outage(logger, "unused objects cannot be deleted yet")

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_ROUND_SECONDS):
                    await self.sweep()
            except (FleetUnavailableError, ObjectStoreError, TimeoutError, OSError) as error:
                self._outage.begin(error)
            except Exception:
                logger.exception("unused objects could not be deleted; continuing")
            else:
                self._outage.end()
            await asyncio.sleep(self._pause)

    async def sweep(self) -> None:
        """Delete what is due now."""
        for shard in range(self._ledger.settings.shards):
            while deleted := await self._objects.sweep(shard):
                logger.info("%d unused objects are deleted", deleted)
