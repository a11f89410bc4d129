"""Conformance of orchestrators."""

import asyncio
import time
from abc import ABC, abstractmethod

import pytest

from skillfleet.ports.orchestrator import Orchestrator


class OrchestratorSuite(ABC):
    """Subclass it as `Test...` and implement `orchestrator` and `unreachable`."""

    @abstractmethod
    def orchestrator(self) -> Orchestrator:
        """Return an adapter whose orchestrator answers."""

    @abstractmethod
    def unreachable(self) -> Orchestrator:
        """Return an adapter whose orchestrator does not answer."""

    @pytest.mark.parametrize("which", ["orchestrator", "unreachable"])
    def test_reports_until_it_is_cancelled(self, which: str) -> None:
        async def main() -> None:
            began = time.monotonic()
            adapter: Orchestrator = getattr(self, which)()
            report = asyncio.ensure_future(adapter.report(lambda: began))
            await asyncio.sleep(0.3)
            assert not report.done()
            report.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(report, 30)

        asyncio.run(main())

    def test_asks_for_the_load(self) -> None:
        async def main() -> None:
            asked = asyncio.Event()

            def oldest_started() -> None:
                asked.set()

            report = asyncio.ensure_future(self.orchestrator().report(oldest_started))
            try:
                await asyncio.wait_for(asked.wait(), 30)
            finally:
                report.cancel()
                await asyncio.wait({report}, timeout=30)

        asyncio.run(main())

    def test_does_not_block_the_loop(self) -> None:
        async def main() -> None:
            report = asyncio.ensure_future(self.unreachable().report(lambda: None))
            turns = 0
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                await asyncio.sleep(0.01)
                turns += 1
            report.cancel()
            await asyncio.wait({report}, timeout=30)
            assert turns > 5

        asyncio.run(main())
