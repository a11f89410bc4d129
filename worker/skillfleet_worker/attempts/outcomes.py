"""Every way an attempt can end. The set is closed: `settle` handles each, mypy sees to it."""

from dataclasses import dataclass, replace
from typing import Any

from skillfleet.contracts import InvocationHeader, ReasonCode
from skillfleet.failures import error_text
from skillfleet.texts import shortened_text


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; `value` is plain JSON."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed and the run with it; `error` stays in the worker's log."""

    code: str
    message: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed and is tried again after `delay` seconds."""

    delay: float
    message: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled."""

    reason: str
    code: str = ReasonCode.CANCELLED_BY_CALLER


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The run's deadline passed."""

    message: str = "the run's deadline passed"
    code: str = ReasonCode.DEADLINE_EXCEEDED


@dataclass(frozen=True, slots=True)
class Released:
    """The worker gives the run back, uncounted: it drains, or lost touch with Redis."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Somebody else holds the run now: nothing may be written."""


def timed_out(header: InvocationHeader | None, deadline_ms: int | None) -> TimedOut:
    """The end of a run whose deadline passed, which may be that of its tree's budget."""
    if header is not None and deadline_ms is not None and deadline_ms == header.budget_end_ms:
        return TimedOut("the tree's budget of time is used up", ReasonCode.BUDGET_EXHAUSTED)
    return TimedOut()


Outcome = Succeeded | Failed | Retry | Cancelled | TimedOut | Released | Lost


def goes_on(outcome: Outcome) -> bool:
    """Whether the run has further attempts: this one does not end it."""
    return isinstance(outcome, Retry | Released | Lost)


def internal_error(what: str, error: Exception) -> Failed:
    """The end of a run whose own end could not be worked out, or written."""
    message = f"{what}: {type(error).__name__}: {error_text(error)}"
    return Failed(ReasonCode.INTERNAL_ERROR, message, error)


def shortened(outcome: Outcome) -> Outcome:
    """The outcome with a message of bounded length; to be called when secrets are hidden."""
    if isinstance(outcome, Failed | Retry):
        return replace(outcome, message=shortened_text(outcome.message))
    return outcome
