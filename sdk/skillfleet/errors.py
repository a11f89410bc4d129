"""The errors of skillfleet: one root, each with a code and a retry policy.

Callers get `code` and the message; tracebacks stay in the worker's log and span.
"""

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

from skillfleet.contracts import ReasonCode


class SkillfleetError(Exception):
    """The root of all errors that skillfleet raises on purpose.

    `code` is stable: callers may branch on it. `retryable` says whether the same call may
    succeed later, `retry_after` how many seconds to wait before that (None: no preference).
    `skillfleet.failures` reads all three, as runtimes do.
    """

    code: str = "error"
    retryable: bool = False
    retry_after: float | str | timedelta | None = None


class DeclarationError(SkillfleetError, TypeError):
    """An agent or a skill is declared wrongly; raised at import."""

    code = "bad_declaration"


class SettingsError(SkillfleetError, ValueError):
    """A setting has a value that cannot be used; the message names the variable."""

    code = "bad_settings"


class FleetUnavailableError(SkillfleetError, ConnectionError):
    """Redis or the broker is unreachable or refuses; the message says why."""

    code = "fleet_unavailable"
    retryable = True


class FleetClosedError(FleetUnavailableError):
    """The fleet was closed, possibly by another thread: make a new one."""

    code = "fleet_closed"
    retryable = False


class WrongLoopError(SkillfleetError, RuntimeError):
    """An asynchronous fleet is used on an event loop other than its own."""

    code = "wrong_loop"


class UnknownSkillError(SkillfleetError, LookupError):
    """No live worker serves a skill of that name; the message lists the known ones."""

    code: str = ReasonCode.UNKNOWN_SKILL


class UnknownAgentError(UnknownSkillError):
    """No live worker serves an agent of that name; the message lists the known ones."""


class UnknownRunError(SkillfleetError, LookupError):
    """There is no run of that id: it was never created, or it expired after its end."""

    code = "unknown_run"


class UnknownArtifactError(SkillfleetError, LookupError):
    """The run has no artifact of that name."""

    code = "unknown_artifact"


class UnknownScheduleError(SkillfleetError, LookupError):
    """There is no schedule of that name."""

    code = "unknown_schedule"


class InvalidArgumentsError(SkillfleetError, ValueError):
    """The arguments do not fit the skill; the message names the field."""

    code: str = ReasonCode.INVALID_ARGUMENTS


class ArgumentsTooLargeError(InvalidArgumentsError):
    """The arguments exceed the size limit; large data belongs in an artifact."""

    code = "arguments_too_large"


class IdempotencyConflictError(SkillfleetError, ValueError):
    """The idempotency key was used before with another skill's or other arguments."""

    code = "idempotency_conflict"


class InvalidResultError(SkillfleetError, ValueError):
    """The skill returned a value that does not fit its return type."""

    code = ReasonCode.INVALID_RESULT


class ResultTooLargeError(SkillfleetError, ValueError):
    """The skill's result exceeds the size limit; large data belongs in an artifact."""

    code = ReasonCode.RESULT_TOO_LARGE


class InvalidArtifactError(SkillfleetError, ValueError):
    """An artifact's name, media type or data cannot be used; the message says why."""

    code = "invalid_artifact"


class ArtifactTooLargeError(SkillfleetError, ValueError):
    """An artifact exceeds the size limit."""

    code = "artifact_too_large"


class ObjectStoreError(SkillfleetError, ConnectionError):
    """The object store did not take, return or delete an object. `retryable` unless refused."""

    code = "object_store"
    retryable = True

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class CheckpointError(SkillfleetError, OSError):
    """A checkpoint was not made, read, restored or deleted; `retryable` where a repeat may help."""

    code = "checkpoint"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class CheckpointConflict(CheckpointError):  # noqa: N818 - as WorkspaceConflict
    """A folder differs from the checkpoint of its run, and a person keeps it as it is."""

    code = "checkpoint_conflict"


class UnknownCheckpointError(CheckpointError):
    """The folder has no checkpoint of that id."""

    code = "unknown_checkpoint"


class EventTooLargeError(SkillfleetError, ValueError):
    """An event's payload exceeds the size limit."""

    code = "event_too_large"


class InvalidEventError(SkillfleetError, ValueError):
    """An event's kind is reserved or its payload cannot be written as JSON."""

    code = "invalid_event"


class EventsUnwritableError(SkillfleetError, ConnectionError):
    """Events could not be written for longer than the limit; the attempt fails."""

    code = ReasonCode.EVENTS_UNWRITABLE
    retryable = True


class UnknownSecretError(SkillfleetError, KeyError):
    """The skill did not declare that secret, or no source has it."""

    code = "unknown_secret"

    def __str__(self) -> str:
        """Return the message as given: `KeyError` would show its repr."""
        return str(self.args[0]) if self.args else ""


class CapabilityUnavailableError(SkillfleetError, PermissionError):
    """The context has no such capability: the runtime did not provide it."""

    code = "capability_unavailable"


class TargetRefusedError(CapabilityUnavailableError):
    """This fleet may not call the target of a call."""

    code = "target_refused"


class GrantInvalid(SkillfleetError, PermissionError):  # noqa: N818 - the seed's name
    """A grant cannot be used, delegated or signed; the message says why, and shows no token.

    `reason` is one word for it, such as `expired`, `audience` or `revoked`.
    """

    code = "grant_invalid"

    def __init__(self, message: str, *, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class SandboxUnavailable(CapabilityUnavailableError):  # noqa: N818 - the seed's name
    """No sandbox client is attached to this context."""

    code = "sandbox_unavailable"


class WorkspaceDenied(SkillfleetError, PermissionError):  # noqa: N818 - the seed's name
    """The skill's access, the grant or the path does not allow this use of the workspace."""

    code = "workspace_denied"


class WorkspaceConflict(SkillfleetError):  # noqa: N818 - named like the other ends of a commit
    """Files changed since a view staged its changes; nothing was committed. `paths` has them."""

    code = "workspace_conflict"

    def __init__(self, message: str, paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


class WorkspaceBusy(SkillfleetError):  # noqa: N818 - named like the other ends of a commit
    """Another attempt writes to the workspace; `holder` names it."""

    code = "workspace_busy"
    retryable = True

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class SandboxRuntimeError(SkillfleetError, RuntimeError):
    """An operation of a sandbox failed or took too long."""

    code = "sandbox_failed"

    def __init__(
        self,
        message: str,
        *,
        operation: str = "",
        sandbox_name: str = "",
        timeout_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        """The method that failed."""
        self.sandbox_name = sandbox_name
        """The name of the sandbox."""
        self.timeout_seconds = timeout_seconds
        """The time limit that was exceeded; None for other failures."""


class LimitExceededError(SkillfleetError):
    """A tree of runs is too deep or too large."""

    code = ReasonCode.LIMIT_EXCEEDED


class BudgetExhaustedError(LimitExceededError):
    """A tree of runs has used up its budget; the run that exceeds it fails with that code."""

    code = ReasonCode.BUDGET_EXHAUSTED


class JournalFullError(LimitExceededError):
    """A run's journal takes no more entries (`SKILLFLEET_MAX_JOURNAL_BYTES`)."""

    code = ReasonCode.JOURNAL_FULL


class CancelledByCaller(SkillfleetError, RuntimeError):  # noqa: N818 - the seed's name
    """Raised by `RunContext.check_cancelled` when the run was cancelled."""

    code = ReasonCode.CANCELLED_BY_CALLER


class StepFailed(SkillfleetError):  # noqa: N818 - a public name of the design
    """A step failed for good; raised in every attempt.

    The original error is its cause in the attempt that executed the step. `step` is the step's
    name, `error_type` the name of the original error's type; code and policy are the original's.
    """

    code: str = ReasonCode.STEP_FAILED

    def __init__(
        self, message: str, *, step: str = "", error_type: str = "", code: str | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self.error_type = error_type
        if code is not None:
            self.code = code


class StepKeyRequired(SkillfleetError, ValueError):  # noqa: N818 - a public name of the design
    """Steps that a later attempt could not distinguish: pass `key=`."""

    code = "step_key_required"


class WaitRejected(SkillfleetError):  # noqa: N818 - a public name of the design
    """A question was rejected; `reason` says why, `by` who rejected it."""

    code: str = ReasonCode.WAIT_REJECTED

    def __init__(self, reason: str, by: str = "") -> None:
        super().__init__(reason or "rejected")
        self.reason = reason
        self.by = by


class WaitTimedOut(SkillfleetError, TimeoutError):  # noqa: N818 - a public name of the design
    """A wait expired before it was decided."""

    code: str = ReasonCode.WAIT_TIMED_OUT


class NestedStepError(SkillfleetError, RuntimeError):
    """A step, a question or another wait inside of a step: it belongs before or after the step."""

    code = "nested_step"


class WaitConflictError(SkillfleetError, ValueError):
    """The wait was decided before in another way, or there is no such open wait."""

    code = "wait_conflict"


class UnknownWaitError(SkillfleetError, LookupError):
    """There is no such open wait, or there are several: the message lists them."""

    code = "unknown_wait"


class RunEndedError(SkillfleetError, ValueError):
    """The run has ended: it takes no answers and no inbox messages."""

    code = "run_ended"


class InboxFullError(SkillfleetError):
    """A run has too many unread inbox messages."""

    code = "inbox_full"
    retryable = True


class SessionBusyError(SkillfleetError):
    """The session has a run that has not ended, and `on_busy="reject"` was asked for."""

    code = "session_busy"
    retryable = True


class SessionDeadlockError(SkillfleetError, RuntimeError):
    """A run waits for a later run of its own session, which cannot start before it has ended."""

    code = "session_deadlock"


class UnknownSessionError(SkillfleetError, LookupError):
    """There is no session of that id: it had no run yet, or none for long."""

    code = "unknown_session"


class InvalidSessionStateError(SkillfleetError, ValueError):
    """A session's state is not JSON, too large, or contains the value of a secret."""

    code = "invalid_session_state"


class UnauthorizedError(SkillfleetError, PermissionError):
    """The caller is not known, or its claims do not fit the agent's `auth_model`."""

    code = ReasonCode.UNAUTHORIZED


class MissingScopes(SkillfleetError, PermissionError):  # noqa: N818 - the seed's name
    """Raised by `RunContext.require_scopes` when the caller lacks scopes.

    `missing` holds the lacking scopes, sorted.
    """

    code = ReasonCode.MISSING_SCOPES

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(sorted(missing))
        super().__init__(f"missing scopes: {', '.join(self.missing)}")


class SkillError(SkillfleetError):
    """The error for skill authors: it fails the attempt with a code, a message and a retry policy.

    The message reaches the caller. With `retryable=True` the run is tried again while the
    skill's `max_retries` last, not before `retry_after`: seconds, a timedelta, or the value of
    an HTTP `Retry-After` header; any other value leaves it to the backoff. A `code` becomes a
    string. Subclasses may declare all three instead, as attributes or properties.
    """

    code: str = ReasonCode.SKILL_ERROR

    def __init__(
        self,
        message: object,
        *,
        code: str | int | None = None,
        retryable: bool | None = None,
        retry_after: float | str | timedelta | None = None,
    ) -> None:
        super().__init__(message)
        given = {"code": code, "retryable": retryable, "retry_after": retry_after}
        for name, value in given.items():
            if value is not None:
                # A subclass may have a property of that name, which takes precedence.
                with contextlib.suppress(AttributeError):
                    setattr(self, name, value)


class RunError(SkillfleetError):
    """The run did not succeed; base class of the errors that `result()` raises.

    `run_id` names the run, `code` the reason for its end.
    """

    default_code: ClassVar[str] = ReasonCode.SKILL_ERROR

    def __init__(self, message: str, *, code: str | None = None, run_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.run_id = run_id


class RunFailed(RunError):  # noqa: N818 - a public name of the design
    """The run ended `failed` or `dead`."""


class RunCancelled(RunError):  # noqa: N818 - a public name of the design
    """The run ended `cancelled`."""

    default_code = ReasonCode.CANCELLED_BY_CALLER


class RunTimedOut(RunError):  # noqa: N818 - a public name of the design
    """The run ended `timed_out`: its deadline passed.

    `deadline` is that of the run, where it is known.
    """

    default_code = ReasonCode.DEADLINE_EXCEEDED

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        run_id: str = "",
        deadline: datetime | None = None,
    ) -> None:
        super().__init__(message, code=code, run_id=run_id)
        self.deadline = deadline


class ResultTimeoutError(SkillfleetError, TimeoutError):
    """The run did not end within the time that the caller waits; it continues."""

    code = "result_timeout"
    retryable = True
