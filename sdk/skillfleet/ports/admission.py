"""The port for admission: who may start a run and who may give it input.

The first is decided before the handler starts, the second before the handler gets the input.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from skillfleet.contracts import Fork
from skillfleet.ports.loading import Port


class ForeignMessageError(Exception):
    """The message is not the run's own: it must not decide how the run ends."""


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A message that asks for a run, before anything in it is trusted.

    `task` is `agent.skill`, `token` what proves the caller, `claims` what the message says of
    the caller. `parent_id`, `root_id` and `depth` are the run's position in its tree. `plain`
    is True for the message of a plain Celery client. `fork` is the run that this one forks.
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
    fork: Fork | None = None


class InputKind(StrEnum):
    """The kind of an input that a run gets while it is executed."""

    ANSWER = "answer"
    REJECTION = "rejection"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class IncomingInput:
    """An answer, a rejection or an inbox message, before anything in it is trusted.

    `wait_id` is '' for a message. `value` is plain JSON, for a rejection its reason. `by` is who
    says to have given it, `token` what proves that, `scopes` those that the wait requires.
    """

    run_id: str
    wait_id: str
    kind: InputKind
    value: Any
    by: str = ""
    token: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] = ()


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

    @abstractmethod
    async def admit_input(self, given: IncomingInput) -> str:
        """Return who gave the input, as it is to be believed; '' for an unidentified caller.

        Raises `UnauthorizedError`, or `MissingScopes`: the input is dropped then, and a wait that
        it decided opens again.
        """


ADMISSION: Final[Port[Admission]] = Port("admission", Admission, "SKILLFLEET_ADMISSION")
