"""The failures of entries: what is recorded of an error, and what is raised for it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from skillfleet.contracts import ReasonCode
from skillfleet.durable.journal import Journal
from skillfleet.errors import (
    EventsUnwritableError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
    StepFailed,
    WaitRejected,
    WaitTimedOut,
)
from skillfleet.failures import (
    error_code,
    error_text,
    failure_of,
    is_cancellation,
    is_overdue,
    is_retryable,
    leaves,
    retry_after_of,
)
from skillfleet.ports.journal import Entry, EntryFailure
from skillfleet.texts import shortened_text

_MOST_MESSAGE_CHARS: Final = 4096
_RUN_ERRORS: Final = {kind.__name__: kind for kind in (RunFailed, RunCancelled, RunTimedOut)}


class SecretKeeper(Protocol):
    """The part of a run context that knows the run's secrets."""

    def _contains_secret(self, args: Any) -> bool: ...

    def _hide(self, secrets: Sequence[str]) -> None: ...


def step_failure(context: SecretKeeper, error: Exception) -> EntryFailure:
    """Return what is recorded of the error that failed a step: nothing that holds a secret."""
    code, message = failure_of(error)
    if code == ReasonCode.SKILL_ERROR:
        code = ReasonCode.STEP_FAILED
    if context._contains_secret({"code": code, "message": message}):  # noqa: SLF001 - for runtimes
        code, message = ReasonCode.STEP_FAILED, "its message contains the value of a secret"
    return EntryFailure(
        type=type(error).__name__,
        code=str(code),
        message=shortened_text(message, _MOST_MESSAGE_CHARS),
        retryable=all(is_retryable(leaf) for leaf in leaves(error)),
    )


def call_failure(error: RunError) -> EntryFailure:
    """Return what is recorded of a call that did not succeed."""
    kind = next((name for name, kind in _RUN_ERRORS.items() if isinstance(error, kind)), "")
    message = shortened_text(error_text(error), _MOST_MESSAGE_CHARS)
    return EntryFailure(kind or RunFailed.__name__, error_code(error), message)


def step_failed(name: str, failure: EntryFailure, cause: Exception | None = None) -> StepFailed:
    """Return the error that a failed step raises, in any attempt."""
    error = StepFailed(
        f"step {name!r} failed: {failure.message}",
        step=name,
        error_type=failure.type,
        code=failure.code,
    )
    error.retryable = failure.retryable
    error.retry_after = None if cause is None else retry_after_of(cause)
    return error


def recorded_error(entry: Entry, failure: EntryFailure) -> Exception:
    """Return the error that a recorded failure raises."""
    if failure.type in _RUN_ERRORS:
        return _RUN_ERRORS[failure.type](failure.message, code=failure.code)
    if failure.type == WaitRejected.__name__:
        return WaitRejected(failure.message, failure.by)
    if failure.type == WaitTimedOut.__name__:
        return WaitTimedOut(failure.message)
    return step_failed(entry.name, failure)


def stops(journal: Journal, error: BaseException, deadline: datetime | None) -> bool:
    """Return whether an error ends the attempt, whatever it happened in: not a failure of a step.

    Cancellation, drain, lost leases and deadlines.
    """
    members = leaves(error)
    if any(isinstance(one, asyncio.CancelledError | EventsUnwritableError) for one in members):
        return True
    if is_cancellation(error) or journal.store.stops_attempt(error):
        return True
    remaining = None if deadline is None else (deadline - datetime.now(UTC)).total_seconds()
    return is_overdue(error, deadline, remaining)
