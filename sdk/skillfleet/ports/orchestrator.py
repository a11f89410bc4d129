"""The port for orchestrators: what starts and stops workers, and should know how busy one is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from skillfleet.ports.loading import Port

OldestStarted = Callable[[], float | None]
"""When the oldest run of the process started, by `time.monotonic`; None without a run."""


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
