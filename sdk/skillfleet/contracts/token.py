"""The signed tokens of a run: JWTs that name a caller and are bound to that run."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from skillfleet.contracts.invocation import Fork

TOKEN_HEADER: Final = "skillfleet-token"  # noqa: S105 - a name, not a secret
"""The Celery message header that carries the token, for fleets and plain clients alike."""

TOKEN_ALGORITHM: Final = "EdDSA"  # noqa: S105
"""The only algorithm for signing and verification."""

ADMIN_SCOPE: Final = "skillfleet:admin"
"""The scope of callers who may fork the runs of others."""

TOKEN_BYTES: Final = 8192
"""The longest token that is created or read."""


class TokenUse(StrEnum):
    """The purpose of a token, which decides whose key must have signed it."""

    RUN = "run"
    """A producer asks for a run."""
    CALL = "call"
    """A worker calls on behalf of a run that it executes."""
    INPUT = "input"
    """A producer gives a run its input: an answer, a rejection, an inbox message."""
    SCHEDULE = "schedule"
    """A producer has a skill run on a schedule: its delegation."""
    FIRED = "fired"
    """A worker starts a run that is due, under the delegation of its schedule."""


class TokenClaims(BaseModel):
    """The claims of a token. Times are seconds since the epoch.

    `sub`, `scopes` and `claims` are the caller's identity; the others bind the token to one
    run of one fleet with one skill and set of arguments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iss: str
    aud: str
    sub: str
    iat: int
    exp: int
    use: TokenUse
    run: str
    """The id of the only run the token is good for; the name of the schedule in a delegation."""
    call: str
    """`call_digest` of the run's skill and arguments; `input_digest` of an input."""
    scopes: tuple[str, ...] = ()
    claims: dict[str, Any] = {}
    """Further claims for the agent's `auth_model`."""
    parent: str | None = None
    root: str | None = None
    depth: int = 0
    fork: Fork | None = None
    """The run that this one forks."""
    delegation: str | None = None
    """The delegation of the schedule, which names the caller of a run that was due."""

    @property
    def identity(self) -> dict[str, Any]:
        """The claims from which an agent's `auth_model` is built."""
        return self.claims | {"sub": self.sub, "scopes": list(self.scopes)}


def call_digest(task: str, arguments: Mapping[str, Any]) -> str:
    """Return a digest of a skill (`<agent>.<skill>`) and its JSON arguments, whatever their order.

    Raises ValueError or TypeError for values that are not JSON, such as NaN.
    """
    return _digest({"args": arguments, "skill": task})


def input_digest(wait: str, kind: str, value: Any) -> str:
    """Return a digest of an input: the wait that it decides ('' for none), its kind, its JSON.

    Raises ValueError or TypeError for values that are not JSON, such as NaN.
    """
    return _digest({"kind": kind, "value": value, "wait": wait})


def _digest(parts: Mapping[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def readable_token(value: Any) -> str | None:
    """Return the token in a header; None for a value that is not a string, or too long."""
    return value if isinstance(value, str) and len(value) <= TOKEN_BYTES else None
