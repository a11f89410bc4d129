"""The two values that a skill hands out while it runs: events and references to artifacts."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """An event of a run: what kind it is, and a payload that can be written as a JSON object."""

    kind: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A reference to stored bytes. `uri` is opaque; `size_bytes` is their exact number."""

    name: str
    uri: str
    mime_type: str
    size_bytes: int
