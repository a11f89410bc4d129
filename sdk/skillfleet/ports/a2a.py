"""Calling other agents."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel

from skillfleet.contracts import Budget
from skillfleet.types import AgentEvent, ArtifactRef


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a successful call brought back.

    `result` is the skill's result as plain JSON values, `events` and `artifacts` what the
    called run emitted and wrote, in order. `grant_id` names the grant that was handed over.
    """

    result: Any
    events: tuple[AgentEvent, ...] = ()
    artifacts: tuple[ArtifactRef, ...] = ()
    grant_id: str | None = None


class Caller(Protocol):
    """The run on whose behalf a call is made; every `RunContext` is one."""

    @property
    def task_id(self) -> str:
        """The run's id."""

    @property
    def auth(self) -> BaseModel:
        """Who called the run; a call made by the run carries at most these scopes."""

    @property
    def deadline(self) -> datetime | None:
        """The end of the run; a call made by the run ends no later."""


class A2AClient(ABC):
    """Runs a skill of another agent and waits for its end.

    Concurrency: any number of calls may be awaited at once, from one event loop.
    Cancellation: cancelling the awaiting task cancels the called run before it propagates.
    Forbidden: passing credentials on that the caller was not given for that target.
    """

    @abstractmethod
    async def call(
        self,
        target: str,
        skill: str,
        *,
        args: Mapping[str, Any] | None = None,
        grant: str | None = None,
        timeout: float | None = None,
        key: str | None = None,
        budget: Budget | None = None,
    ) -> CallResult:
        """Run `skill` of the agent `target` with the JSON arguments `args`.

        `timeout` in seconds shortens the call's deadline, which is never later than the
        caller's own. `grant` is a token that hands workspace access over. With a `key`, an
        attempt that makes the same call again gets the first call's result instead of a
        second run. `budget` bounds the called run and all that it calls.

        Raises before anything runs: `UnknownAgentError` or `UnknownSkillError` (listing the
        known ones), `InvalidArgumentsError`, `LimitExceededError` (the tree of runs is too
        deep or too large, or would be a cycle), `BudgetExhaustedError`,
        `IdempotencyConflictError` (the key was used for another call),
        `CapabilityUnavailableError` (the client cannot hand over grants). Raises for the run's
        end: `RunFailed`, `RunCancelled`, `RunTimedOut`, each with the run's code.
        """

    def for_caller(self, caller: Caller) -> "A2AClient":
        """The client that acts for `caller`; itself where the caller makes no difference."""
        del caller
        return self
