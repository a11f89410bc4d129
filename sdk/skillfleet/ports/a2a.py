"""The port for calls to other agents."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from skillfleet.contracts import Budget
from skillfleet.ports.loading import Port
from skillfleet.ports.provider import Provider
from skillfleet.types import AgentEvent, ArtifactRef


@dataclass(frozen=True, slots=True)
class CallResult:
    """The outcome of a successful call.

    `result` is the skill's result as plain JSON values, `events` and `artifacts` what the
    called run emitted and wrote, in order. `grant_id` names the grant that was handed over.
    """

    result: Any
    events: tuple[AgentEvent, ...] = ()
    artifacts: tuple[ArtifactRef, ...] = ()
    grant_id: str | None = None


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call.

    `timeout` in seconds shortens the call's deadline, which is never later than the caller's
    own. `grant` is a token that hands workspace access over. With a `key`, an attempt that
    makes the same call again gets the first call's result instead of a second run. `budget`
    bounds the called run and all that it calls.

    `position` numbers the calls of an attempt without a key that are equal in target, skill and
    arguments, from 1: for clients that find the call of an earlier attempt again. `wait` takes
    the id of the called run and returns at its end: a client whose calls are runs of its fleet
    awaits it instead of waiting by itself, so that the caller may be parked; others ignore it.
    """

    grant: str | None = None
    timeout: float | None = None
    key: str | None = None
    budget: Budget | None = None
    position: int | None = None
    wait: Callable[[str], Awaitable[None]] | None = None


NO_OPTIONS: Final = CallOptions()


class A2AClient(ABC):
    """Runs skills of other agents on behalf of one attempt, and waits for their end.

    Concurrency: any number of calls may be awaited at once, from one event loop.
    Cancellation: cancelling the awaiting task cancels the called run before it propagates.
    Forbidden: passing credentials on that the caller was not given for that target.
    """

    @abstractmethod
    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        """Run `skill` of the agent `target` with the JSON arguments `args`.

        Raises before anything runs: `UnknownAgentError` or `UnknownSkillError` (listing the
        known ones), `InvalidArgumentsError`, `LimitExceededError` (the tree of runs is too
        deep or too large, or would be a cycle), `BudgetExhaustedError`,
        `IdempotencyConflictError` (the key was used for another call), `TargetRefusedError`,
        `CapabilityUnavailableError` (the client cannot hand over grants). Raises for the run's
        end: `RunFailed`, `RunCancelled`, `RunTimedOut`, each with the run's code.
        """


class A2AProvider(Provider[A2AClient]):
    """Opens the client of each attempt, for targets that are URLs."""


A2A: Final[Port[A2AProvider]] = Port("a2a", A2AProvider, "SKILLFLEET_A2A")
