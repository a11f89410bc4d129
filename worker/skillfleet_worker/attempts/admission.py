"""Who may start a run: asked before its handler starts."""

from abc import ABC, abstractmethod

from skillfleet_worker.attempts.delivery import Delivery


class ForeignMessageError(Exception):
    """The message is not the run's own: it must not decide over the run."""


class Admission(ABC):
    """Finds out who calls, and refuses whoever may not. Concurrency: any number at once."""

    @abstractmethod
    async def admit(self, delivery: Delivery) -> Delivery:
        """The delivery with the caller's claims as they are to be believed.

        On the home loop. Raises UnauthorizedError, which ends the run, and
        ForeignMessageError for a message that somebody else made up for it.
        """


class OpenAdmission(Admission):
    """Believes everybody, for fleets whose Redis only trusted people can reach."""

    async def admit(self, delivery: Delivery) -> Delivery:
        """The delivery as it came."""
        return delivery
