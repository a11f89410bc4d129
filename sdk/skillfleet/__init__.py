"""The SDK for skill authors: agents and their skills, and tests without a fleet.

Concrete runtimes, the wire's contracts (`skillfleet.contracts`), the ports
(`skillfleet.ports`) and all errors (`skillfleet.errors`) have their own modules.
"""

from typing import TYPE_CHECKING

from skillfleet._lazy import exported

if TYPE_CHECKING:
    from skillfleet.agent import Agent
    from skillfleet.auth import APIKeyAuth, JWTAuth, NoAuth
    from skillfleet.context import RunContext
    from skillfleet.durable.texts import joined_text
    from skillfleet.errors import (
        CancelledByCaller,
        MissingScopes,
        SkillError,
        SkillfleetError,
        StepFailed,
        StepKeyRequired,
        WaitRejected,
        WaitTimedOut,
    )
    from skillfleet.ports.a2a import CallResult
    from skillfleet.retry import RetryPolicy
    from skillfleet.testing.local_context import LocalRunContext
    from skillfleet.types import AgentEvent, ArtifactRef
else:
    __getattr__ = exported(
        __name__,
        {
            "APIKeyAuth": "skillfleet.auth",
            "Agent": "skillfleet.agent",
            "AgentEvent": "skillfleet.types",
            "ArtifactRef": "skillfleet.types",
            "CallResult": "skillfleet.ports.a2a",
            "CancelledByCaller": "skillfleet.errors",
            "JWTAuth": "skillfleet.auth",
            "LocalRunContext": "skillfleet.testing.local_context",
            "MissingScopes": "skillfleet.errors",
            "NoAuth": "skillfleet.auth",
            "RetryPolicy": "skillfleet.retry",
            "RunContext": "skillfleet.context",
            "SkillError": "skillfleet.errors",
            "SkillfleetError": "skillfleet.errors",
            "StepFailed": "skillfleet.errors",
            "StepKeyRequired": "skillfleet.errors",
            "WaitRejected": "skillfleet.errors",
            "WaitTimedOut": "skillfleet.errors",
            "joined_text": "skillfleet.durable.texts",
        },
    )

__all__ = [
    "APIKeyAuth",
    "Agent",
    "AgentEvent",
    "ArtifactRef",
    "CallResult",
    "CancelledByCaller",
    "JWTAuth",
    "LocalRunContext",
    "MissingScopes",
    "NoAuth",
    "RetryPolicy",
    "RunContext",
    "SkillError",
    "SkillfleetError",
    "StepFailed",
    "StepKeyRequired",
    "WaitRejected",
    "WaitTimedOut",
    "joined_text",
]
