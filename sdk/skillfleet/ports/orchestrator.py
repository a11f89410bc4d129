"""The port for orchestrators, which start and stop workers and get reports of their load."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from skillfleet.ports.loading import Port

OldestStarted = Callable[[], float | None]
"""Returns when the oldest run of the process started (`time.monotonic`); None without one."""


class Orchestrator(ABC):
    """Reports the load of one worker process to its orchestrator.

    Concurrency: one `report` for each process, as a task on the home loop. Cancellation: ends
    the reports. Forbidden: raising for an orchestrator that does not answer.
    """

    @abstractmethod
    async def report(self, oldest_started: OldestStarted) -> None:
        """Report until cancelled; `oldest_started` may be called at any time."""


ORCHESTRATOR: Final[Port[Orchestrator]] = Port(
    "orchestrator", Orchestrator, "SKILLFLEET_ORCHESTRATOR"
)
