"""The wire models: states, events, invocations, statuses and cards.

Any package may import this one; it imports nothing of the fleet.
"""

from skillfleet.contracts.budget import Budget
from skillfleet.contracts.events import (
    RESERVED_KINDS,
    STATE_KIND,
    SUPERSEDED_KIND,
    TEXT_DELTA_KIND,
    TRIMMED_KIND,
    WAIT_ENDED_KIND,
    WAIT_KIND,
    RunEvent,
    from_millis,
)
from skillfleet.contracts.invocation import HEADER, Fork, InvocationHeader
from skillfleet.contracts.limits import MOST_SECONDS, Limits
from skillfleet.contracts.schedule import MOST_CATCH_UP, Overlap, Schedule
from skillfleet.contracts.sessions import SessionEvent, SessionStatus
from skillfleet.contracts.states import TERMINAL_STATES, ReasonCode, RunState
from skillfleet.contracts.status import AgentCard, ArtifactInfo, Attempt, RunStatus, SkillCard
from skillfleet.contracts.token import (
    ADMIN_SCOPE,
    TOKEN_ALGORITHM,
    TOKEN_BYTES,
    TOKEN_HEADER,
    TokenClaims,
    TokenUse,
    call_digest,
    input_digest,
    readable_token,
)
from skillfleet.contracts.waits import (
    AnswerKey,
    EntryKind,
    RecordedStep,
    Wait,
    WaitKind,
    WaitOutcome,
)
from skillfleet.contracts.workspace import WorkspaceAccess, WorkspaceMode

__all__ = [
    "ADMIN_SCOPE",
    "HEADER",
    "MOST_CATCH_UP",
    "MOST_SECONDS",
    "RESERVED_KINDS",
    "STATE_KIND",
    "SUPERSEDED_KIND",
    "TERMINAL_STATES",
    "TEXT_DELTA_KIND",
    "TOKEN_ALGORITHM",
    "TOKEN_BYTES",
    "TOKEN_HEADER",
    "TRIMMED_KIND",
    "WAIT_ENDED_KIND",
    "WAIT_KIND",
    "AgentCard",
    "AnswerKey",
    "ArtifactInfo",
    "Attempt",
    "Budget",
    "EntryKind",
    "Fork",
    "InvocationHeader",
    "Limits",
    "Overlap",
    "ReasonCode",
    "RecordedStep",
    "RunEvent",
    "RunState",
    "RunStatus",
    "Schedule",
    "SessionEvent",
    "SessionStatus",
    "SkillCard",
    "TokenClaims",
    "TokenUse",
    "Wait",
    "WaitKind",
    "WaitOutcome",
    "WorkspaceAccess",
    "WorkspaceMode",
    "call_digest",
    "from_millis",
    "input_digest",
    "readable_token",
]
