"""The port for admission: who may start a run, decided before its handler starts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from skillfleet.ports.loading import Port


class ForeignMessageError(Exception):
    """The message is not the run's own: it must not decide how the run ends."""


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A message that asks for a run, before anything in it is trusted.

    `task` is `agent.skill`, `token` what proves the caller, `claims` what the message says of
    the caller. `parent_id`, `root_id` and `depth` are the run's position in its tree. `plain`
    is True for the message of a plain Celery client.
    """

    run_id: str
    task: str
    arguments: Mapping[str, Any]
    claims: Mapping[str, Any] | None
    token: str | None = field(repr=False)
    parent_id: str | None
    root_id: str
    depth: int
    plain: bool


class Admission(ABC):
    """Identifies callers and refuses those who may not call.

    Concurrency: any number of calls at once, on the home loop. Cancellation: at any point,
    without effect. Forbidden: a token or a claim in an error message or a log line.
    """

    @abstractmethod
    async def admit(self, call: IncomingCall) -> Mapping[str, Any] | None:
        """Return the caller's claims as they are to be believed; None for an unidentified caller.

        Raises `UnauthorizedError`, which ends the run, and `ForeignMessageError` for a message
        that another client made for an existing run.
        """


ADMISSION: Final[Port[Admission]] = Port("admission", Admission, "SKILLFLEET_ADMISSION")
