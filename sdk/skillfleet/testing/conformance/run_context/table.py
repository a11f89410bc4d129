"""The agent that tries contexts, and the form of a case."""

import json
import os
import tempfile
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skillfleet import Agent, APIKeyAuth, RunContext, SkillfleetError
from skillfleet.contracts import Budget

AUTH: Mapping[str, Any] = {"api_key_id": "key-1", "scopes": ["notes:read", "notes:write"]}
SECRETS: Mapping[str, str] = {"conformance-token": "a value that must stay secret"}
LIMIT = 64 * 1024

agent = Agent(
    "conformance",
    description="Exercises every member of its context",
    tags=("testing",),
    auth_model=APIKeyAuth,
)


async def code_of(awaitable: Awaitable[Any]) -> str:
    """Return the code of the error that `awaitable` raises; "none" when it raises none."""
    try:
        await awaitable
    except SkillfleetError as error:
        return str(error.code)
    return "none"


class Notes:
    """A file that the attempts of one run share, as evidence of what they executed.

    The runtime executes all attempts on one machine, and no two runs have the same id. `end`
    removes the file.
    """

    def __init__(self, ctx: RunContext[Any]) -> None:
        self._path = Path(tempfile.gettempdir()) / f"conformance-{os.getuid()}-{ctx.task_id}"

    def add(self, what: str) -> int:
        """Note that something was executed; return how often it was."""
        notes = [*self.read(), what]
        self._path.write_text(json.dumps(notes))
        return notes.count(what)

    def read(self) -> list[str]:
        """Return all notes."""
        notes: list[str] = json.loads(self._path.read_text()) if self._path.exists() else []
        return notes

    def end(self) -> list[str]:
        """Return all notes and forget them."""
        notes = self.read()
        self._path.unlink(missing_ok=True)
        return notes


@dataclass(frozen=True)
class Reject:
    """The rejection of a question, as an answer of a case."""

    reason: str


class Anything:
    """Equal to everything: for values that differ between runtimes."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "ANYTHING"


ANYTHING = Anything()
Event = tuple[str, dict[str, Any]]
Stored = tuple[bytes, str]
StepShown = tuple[str, str, str]
"""Kind, name and outcome of a recorded entry."""


@dataclass(frozen=True)
class Case:
    """One run and its expected end.

    `code` is None for a run that succeeds with `result`. `cancel_on` is the kind of the event
    after which the runner cancels the run. `session` is the id of the run's session, which has
    had no run before. The runner answers each open question with the next of its `answers`, by key
    or question, and sends the messages of `inbox` at the start. `text` is the joined text of all
    events, `steps` what is recorded in the end; None: not compared.
    """

    skill: str
    args: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    code: str | None = None
    events: tuple[Event, ...] = ()
    artifacts: Mapping[str, Stored] = field(default_factory=dict)
    cancel_on: str | None = None
    budget: Budget | None = None
    session: str | None = None
    answers: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inbox: tuple[Any, ...] = ()
    text: str | None = None
    steps: tuple[StepShown, ...] | None = None
    note: str = ""

    @property
    def id(self) -> str:
        """A readable name for the test."""
        return f"{self.skill}-{self.note}" if self.note else self.skill


@dataclass
class Observed:
    """The end of a run: its result or code, its events without the fleet's own, its artifacts.

    `message` is the error's, only to explain a surprise. `text` is `joined_text` of all events,
    the fleet's own included.
    """

    result: Any = None
    code: str | None = None
    message: str = ""
    events: list[Event] = field(default_factory=list)
    artifacts: dict[str, Stored] = field(default_factory=dict)
    text: str = ""
    steps: list[StepShown] = field(default_factory=list)


def assert_conforms(case: Case, seen: Observed) -> None:
    """Compare the end of a run with the expected one; the message names the difference."""
    assert seen.code == case.code, (
        f"{case.id}: code {seen.code!r} ({seen.message}), expected {case.code!r}"
    )
    assert seen.result == case.result, f"{case.id}: result {seen.result!r}, not {case.result!r}"
    assert seen.events == list(case.events), f"{case.id}: events {seen.events!r}"
    assert seen.artifacts == dict(case.artifacts), f"{case.id}: artifacts {list(seen.artifacts)}"
    if case.text is not None:
        assert seen.text == case.text, f"{case.id}: text {seen.text!r}, not {case.text!r}"
    if case.steps is not None:
        assert seen.steps == list(case.steps), f"{case.id}: steps {seen.steps!r}"
