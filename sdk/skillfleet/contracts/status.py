"""The public view of runs: status, artifacts, and the catalogue of skills."""

import re
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from skillfleet.contracts.states import RunState
from skillfleet.contracts.waits import WaitKind
from skillfleet.contracts.workspace import WorkspaceAccess


class Attempt(BaseModel):
    """One execution of a run, numbered from 1. `outcome` is None while it is running."""

    model_config = ConfigDict(frozen=True)

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None


class RunStatus(BaseModel):
    """A snapshot of a run's record. Times are UTC; `code` is a `ReasonCode` value."""

    model_config = ConfigDict(frozen=True)

    id: str
    agent: str
    skill: str
    state: RunState
    queue: str
    code: str | None = None
    message: str | None = None
    attempt: int = 0
    retries: int = 0
    held: str | None = None
    """What keeps a queued run back: `unserved:` and the skill that no live worker serves, or
    `session:` and the session, which has another run that has not ended."""
    worker: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline: datetime | None = None
    due_at: datetime | None = None
    cancel_requested: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    fork_of: str | None = None
    """The run that this one forks."""
    children: int = 0
    events: int = 0
    trace_id: str | None = None
    session: str | None = None
    """The session that the run belongs to."""
    tags: dict[str, str] = Field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    waits: tuple[WaitKind, ...] = ()
    """The kinds of the run's undecided waits."""
    parked: bool = False
    """True for a run that waits without a worker."""

    @property
    def name(self) -> str:
        """The Celery task name, `<agent>.<skill>`."""
        return f"{self.agent}.{self.skill}"


class ArtifactInfo(BaseModel):
    """A stored artifact: `sha256` is the hex digest of its `size_bytes` bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    mime_type: str
    size_bytes: int
    sha256: str
    attempt: int
    created_at: datetime


class SkillCard(BaseModel):
    """A skill as its agent publishes it; the schemas are JSON Schema (2020-12)."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    max_retries: int = 0
    durable: bool = False
    workspace: WorkspaceAccess | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)
    output_schema: dict[str, Any] = Field(default_factory=dict)


class AgentCard(BaseModel):
    """An agent as its workers publish it in the directory."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str = ""
    version: str = "0.1.0"
    compatible_versions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    queue: str
    skills: tuple[SkillCard, ...] = ()

    @property
    def order(self) -> tuple[Any, ...]:
        """The sort key by name and version: 0.9.0, 0.10.0-rc1, 0.10.0."""
        release, _, early = self.version.partition("+")[0].partition("-")
        return self.name, _numbered(release), not early, _numbered(early)

    def skill(self, name: str) -> SkillCard | None:
        """Return the card of the skill called `name`, or None."""
        return next((card for card in self.skills if card.name == name), None)


def _numbered(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts the numbers in a text by their value."""
    parts = re.findall(r"\d+|[^\d.]+", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
