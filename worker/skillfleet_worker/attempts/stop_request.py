"""Request to stop an attempt before its handler has returned."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from skillfleet.contracts import ReasonCode
from skillfleet_worker.attempts.outcomes import (
    Cancelled,
    Failed,
    Lost,
    Outcome,
    Parked,
    Released,
    TimedOut,
)


class StopKind(StrEnum):
    """The reason an attempt has to stop."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    BUDGET = "budget"
    RELEASED = "released"
    PARKED = "parked"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A request to stop, with its reason in plain words and the reason code of the run's end."""

    kind: StopKind
    reason: str = ""
    code: str | None = None

    def outcome(self) -> Outcome:
        """Return the outcome of an attempt that stops for this request."""
        match self.kind:
            case StopKind.CANCELLED:
                return Cancelled(self.reason, self.code or ReasonCode.CANCELLED_BY_CALLER)
            case StopKind.DEADLINE:
                return TimedOut(self.reason, self.code or ReasonCode.DEADLINE_EXCEEDED)
            case StopKind.BUDGET:
                return Failed(self.code or ReasonCode.BUDGET_EXHAUSTED, self.reason)
            case StopKind.RELEASED:
                return Released(self.reason)
            case StopKind.PARKED:
                return Parked(self.reason)
            case StopKind.LOST:
                return Lost()


WITHOUT_LEASE: Final = frozenset({StopKind.LOST, StopKind.PARKED})
"""The attempt may write nothing more: whatever its handler still does is ignored."""

GIVES_BACK: Final = WITHOUT_LEASE | {StopKind.RELEASED}
"""The run goes on in another attempt."""

LOST_TOUCH = StopRequest(StopKind.RELEASED, "the worker lost touch with Redis")
SHUTS_DOWN = StopRequest(StopKind.RELEASED, "the worker shuts down")
