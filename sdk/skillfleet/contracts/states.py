"""The states of a run and the closed set of reasons a run can end for.

The A2A 1.0 names are those of `TaskState` in a2a.proto (lf.a2a.v1).
"""

from enum import StrEnum


class RunState(StrEnum):
    """The state of a run: `queued → running → one of the terminal states`.

    A run with an open wait is `waiting`: in the memory of its worker, or parked.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    DEAD = "dead"

    @property
    def terminal(self) -> bool:
        """True for a state that cannot change any more."""
        return self in TERMINAL_STATES

    @property
    def a2a(self) -> str:
        """The A2A 1.0 task state that a gateway shows for this state."""
        return _A2A[self]


TERMINAL_STATES = frozenset(
    {
        RunState.SUCCEEDED,
        RunState.FAILED,
        RunState.CANCELLED,
        RunState.TIMED_OUT,
        RunState.DEAD,
    }
)

_A2A = {
    RunState.QUEUED: "TASK_STATE_SUBMITTED",
    RunState.RUNNING: "TASK_STATE_WORKING",
    RunState.WAITING: "TASK_STATE_INPUT_REQUIRED",
    RunState.SUCCEEDED: "TASK_STATE_COMPLETED",
    RunState.FAILED: "TASK_STATE_FAILED",
    RunState.CANCELLED: "TASK_STATE_CANCELED",
    RunState.TIMED_OUT: "TASK_STATE_FAILED",
    RunState.DEAD: "TASK_STATE_FAILED",
}


class ReasonCode(StrEnum):
    """The reason a run is in its terminal state; callers may branch on it."""

    COMPLETED = "completed"
    CANCELLED_BY_CALLER = "cancelled_by_caller"
    PARENT_ENDED = "parent_ended"
    DELIVERED = "delivered"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SKILL_ERROR = "skill_error"
    INTERNAL_ERROR = "internal_error"
    INVALID_ARGUMENTS = "invalid_arguments"
    INVALID_RESULT = "invalid_result"
    RESULT_TOO_LARGE = "result_too_large"
    UNKNOWN_SKILL = "unknown_skill"
    UNAUTHORIZED = "unauthorized"
    MISSING_SCOPES = "missing_scopes"
    LIMIT_EXCEEDED = "limit_exceeded"
    BUDGET_EXHAUSTED = "budget_exhausted"
    EVENTS_UNWRITABLE = "events_unwritable"
    WORKER_LOST = "worker_lost"
    STEP_FAILED = "step_failed"
    WAIT_REJECTED = "wait_rejected"
    WAIT_TIMED_OUT = "wait_timed_out"
    JOURNAL_MISMATCH = "journal_mismatch"
    JOURNAL_FULL = "journal_full"
