"""The agent that tries contexts, and the form of a case."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skillfleet import Agent, APIKeyAuth, SkillfleetError
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


@dataclass(frozen=True)
class Case:
    """One run and its expected end.

    `code` is None for a run that succeeds with `result`. `cancel_on` is the kind of the event
    after which the runner cancels the run. `session` is the id of the run's session, which has
    had no run before.
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
    note: str = ""

    @property
    def id(self) -> str:
        """A readable name for the test."""
        return f"{self.skill}-{self.note}" if self.note else self.skill


@dataclass
class Observed:
    """The end of a run: its result or code, its events without the fleet's own, its artifacts.

    `message` is the error's, only to explain a surprise.
    """

    result: Any = None
    code: str | None = None
    message: str = ""
    events: list[Event] = field(default_factory=list)
    artifacts: dict[str, Stored] = field(default_factory=dict)


def assert_conforms(case: Case, seen: Observed) -> None:
    """Compare the end of a run with the expected one; the message names the difference."""
    assert seen.code == case.code, (
        f"{case.id}: code {seen.code!r} ({seen.message}), expected {case.code!r}"
    )
    assert seen.result == case.result, f"{case.id}: result {seen.result!r}, not {case.result!r}"
    assert seen.events == list(case.events), f"{case.id}: events {seen.events!r}"
    assert seen.artifacts == dict(case.artifacts), f"{case.id}: artifacts {list(seen.artifacts)}"
