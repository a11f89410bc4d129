"""Outcome of an attempt: the one type for how an attempt ended, and how it ends its run.

The set is closed: code that handles an `Outcome` matches all eight kinds, which mypy verifies. The
four kinds that also end the run have `end()`, the `RunEnd` that the ledger stores.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from skillfleet.contracts import InvocationHeader, ReasonCode, RunState
from skillfleet.failures import error_text
from skillfleet.texts import shortened_text
from skillfleet_ledger.celery_format import RunEnd


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; `value` is plain JSON."""

    name: ClassVar[str] = "succeeded"
    message: ClassVar[str] = ""
    value: Any

    def end(self) -> RunEnd:
        """Return the end of the run."""
        return RunEnd(RunState.SUCCEEDED, ReasonCode.COMPLETED, self.message, self.value)


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and the run with it; `error` is for the worker's log and spans only."""

    name: ClassVar[str] = "failed"
    code: str
    message: str
    error: BaseException | None = None

    def end(self) -> RunEnd:
        """Return the end of the run."""
        return RunEnd(RunState.FAILED, self.code, self.message)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled."""

    name: ClassVar[str] = "cancelled"
    message: str
    code: str = ReasonCode.CANCELLED_BY_CALLER

    def end(self) -> RunEnd:
        """Return the end of the run."""
        return RunEnd(RunState.CANCELLED, self.code, self.message)


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The run's deadline passed."""

    name: ClassVar[str] = "timed_out"
    message: str = "the run's deadline passed"
    code: str = ReasonCode.DEADLINE_EXCEEDED

    def end(self) -> RunEnd:
        """Return the end of the run."""
        return RunEnd(RunState.TIMED_OUT, self.code, self.message)


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; the run has another attempt after `delay` seconds."""

    name: ClassVar[str] = "retry"
    delay: float
    message: str
    error: Exception
    dropped: tuple[str, ...] = ()
    """The identities of failed entries of the journal that the next attempt makes again."""


@dataclass(frozen=True, slots=True)
class Released:
    """The run goes back to its queue; the attempt is not counted."""

    name: ClassVar[str] = "released"
    message: str


@dataclass(frozen=True, slots=True)
class Parked:
    """The run waits without a worker: its lease was given back before the handler was stopped."""

    name: ClassVar[str] = "parked"
    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt no longer holds the lease: it may write nothing more."""

    name: ClassVar[str] = "lost"
    message: ClassVar[str] = "its worker was lost"
    code: ClassVar[str] = ReasonCode.WORKER_LOST


Outcome = Succeeded | Failed | Cancelled | TimedOut | Retry | Released | Parked | Lost


def goes_on(outcome: Outcome) -> bool:
    """Return whether the run has further attempts after this one."""
    return isinstance(outcome, Retry | Released | Parked | Lost)


def timed_out(header: InvocationHeader | None, deadline_ms: int | None) -> TimedOut:
    """Return the outcome of a passed deadline, which may be that of the tree's budget."""
    if header is not None and deadline_ms is not None and deadline_ms == header.budget_end_ms:
        return TimedOut("the tree's budget of time is used up", ReasonCode.BUDGET_EXHAUSTED)
    return TimedOut()


def internal_error(what: str, error: Exception) -> Failed:
    """Return the outcome of an attempt that failed in the worker's own code."""
    message = f"{what}: {type(error).__name__}: {error_text(error)}"
    return Failed(ReasonCode.INTERNAL_ERROR, message, error)


def shortened(outcome: Outcome) -> Outcome:
    """Bound the length of an outcome's message. Secrets must be redacted before."""
    if isinstance(outcome, Failed | Retry):
        return replace(outcome, message=shortened_text(outcome.message))
    return outcome
