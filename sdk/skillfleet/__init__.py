"""For skill authors: write agents and their skills, and test them without a fleet.

Concrete runtimes, the wire's contracts (`skillfleet.contracts`), the ports
(`skillfleet.ports`) and all errors (`skillfleet.errors`) have modules of their own.
"""

from skillfleet.agent import Agent
from skillfleet.auth import APIKeyAuth, JWTAuth, NoAuth
from skillfleet.context import RunContext
from skillfleet.errors import CancelledByCaller, MissingScopes, SkillError, SkillfleetError
from skillfleet.local import LocalRunContext
from skillfleet.ports.a2a import CallResult
from skillfleet.values import AgentEvent, ArtifactRef

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
    "RunContext",
    "SkillError",
    "SkillfleetError",
]
