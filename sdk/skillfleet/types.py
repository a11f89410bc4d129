"""The values that a skill emits or returns while it runs: events and artifact references."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """An event of a run: its kind, and a payload that can be written as a JSON object.

    `step` is set on events that were read back: the identity of the step that emitted them.
    """

    kind: str
    payload: dict[str, Any] = field(default_factory=dict)
    step: str | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A reference to stored bytes. `uri` is opaque; `size_bytes` is their exact number."""

    name: str
    uri: str
    mime_type: str
    size_bytes: int
