"""The wire models: states, events, invocations, statuses and cards.

Any package may import this one; it imports nothing of the fleet.
"""

from skillfleet.contracts.budget import Budget
from skillfleet.contracts.events import (
    RESERVED_KINDS,
    STATE_KIND,
    TRIMMED_KIND,
    RunEvent,
    from_millis,
)
from skillfleet.contracts.invocation import HEADER, InvocationHeader
from skillfleet.contracts.limits import MOST_SECONDS, Limits
from skillfleet.contracts.states import TERMINAL_STATES, ReasonCode, RunState
from skillfleet.contracts.status import AgentCard, ArtifactInfo, Attempt, RunStatus, SkillCard
from skillfleet.contracts.token import (
    TOKEN_ALGORITHM,
    TOKEN_BYTES,
    TOKEN_HEADER,
    TokenClaims,
    TokenUse,
    call_digest,
    readable_token,
)

__all__ = [
    "HEADER",
    "MOST_SECONDS",
    "RESERVED_KINDS",
    "STATE_KIND",
    "TERMINAL_STATES",
    "TOKEN_ALGORITHM",
    "TOKEN_BYTES",
    "TOKEN_HEADER",
    "TRIMMED_KIND",
    "AgentCard",
    "ArtifactInfo",
    "Attempt",
    "Budget",
    "InvocationHeader",
    "Limits",
    "ReasonCode",
    "RunEvent",
    "RunState",
    "RunStatus",
    "SkillCard",
    "TokenClaims",
    "TokenUse",
    "call_digest",
    "from_millis",
    "readable_token",
]
