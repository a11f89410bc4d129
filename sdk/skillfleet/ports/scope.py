"""The run scope: all that an adapter sees of the run it works for."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from skillfleet.ports.grants import RunGrants

T = TypeVar("T")

Cleanup = Callable[[], Awaitable[object]]
"""Closes something that an attempt opened; see `RunScope.defer`."""

FLEET_LABEL: Final = "skillfleet.fleet"
RUN_LABEL: Final = "skillfleet.run"
LEASE_LABEL: Final = "skillfleet.lease"
"""The labels of an external resource; see `RunScope.resource_labels`."""


class RunScope(ABC):
    """One attempt of a run, as an adapter sees it.

    A runtime makes one scope for each attempt and passes it to `Provider.open`. Workers and
    `LocalRunContext` implement it, so an adapter works in both.

    Concurrency: all methods belong to the event loop that runs the skill; `charge_tokens` may
    be called from any thread. Forbidden: using the scope after the attempt ended, and showing
    it to the skill.
    """

    @property
    @abstractmethod
    def run_id(self) -> str:
        """The run's id; it stays the same over all attempts."""

    @property
    @abstractmethod
    def root_id(self) -> str:
        """The id of the run at the root of this run's tree; its own without a caller."""

    @property
    @abstractmethod
    def session_id(self) -> str | None:
        """The name of the run's session, distinct within the fleet; None without a session."""

    @property
    @abstractmethod
    def attempt(self) -> int:
        """The number of this attempt, from 1."""

    @property
    @abstractmethod
    def auth(self) -> BaseModel:
        """The caller of the run; an adapter does nothing for it that exceeds its scopes."""

    @property
    @abstractmethod
    def grants(self) -> RunGrants:
        """The grants of the run, for clients that give access to files of a workspace."""

    @property
    @abstractmethod
    def deadline(self) -> datetime | None:
        """The time at which the attempt is stopped (UTC, aware); None without a deadline."""

    @property
    @abstractmethod
    def cancel_reason(self) -> str | None:
        """The reason for the cancellation ("" without one); None while the run is not cancelled."""

    @property
    def cancelled(self) -> bool:
        """True once the run was cancelled."""
        return self.cancel_reason is not None

    @abstractmethod
    async def wait_cancelled(self) -> None:
        """Return once the run is cancelled; never for a run that is not."""

    @abstractmethod
    async def charge_call(self) -> None:
        """Charge the budgets of the run's tree for one call that is not a run of this fleet.

        Raises `BudgetExhaustedError`, `LimitExceededError` or `CancelledByCaller`; nothing is
        charged then.
        """

    @abstractmethod
    def charge_tokens(self, tokens: int) -> None:
        """Charge used tokens to the budgets of the run's tree; the run that overdraws is stopped.

        Returns at once, from any thread.
        """

    @abstractmethod
    def release_slot(self) -> AbstractAsyncContextManager[bool]:
        """Return a context manager for work that only waits: inside, the run releases its slot.

        Its value is False where slots cannot be released; the work continues all the same.
        """

    @abstractmethod
    async def on_home_loop(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on the event loop of the process's shared connections."""

    @abstractmethod
    def defer(self, cleanup: Cleanup) -> None:
        """Call and await `cleanup` when the attempt ends, however it ends.

        Cleanups run in reverse order, in bounded time; their errors are logged and do not change
        the run's end. Where the process has to be replaced because a handler blocks it, they run
        on a separate loop in another thread, and one that was under way then runs again. A killed
        process runs none: resources outside of it carry `resource_labels`, and
        `ReapingProvider.reap` ends them.
        """

    def before_record(self, write: Callable[[], Awaitable[None]]) -> None:
        """Call and await `write` before what the run has done is recorded.

        That is before each step, wait and message that is recorded, and after a handler that
        returned, on its loop: what `write` makes durable is there whenever the record is. Its
        error is that of the step, or of the handler. A runtime that records nothing calls it as
        a cleanup.
        """
        self.defer(write)

    @abstractmethod
    async def check_lease(self) -> None:
        """Raise an error of the runtime unless the attempt still holds its lease.

        To be called right before a change that another attempt must not see twice. The error ends
        the attempt: let it pass.
        """

    @abstractmethod
    def secret(self, name: str) -> str:
        """Return the value of a secret that the skill has declared; raises UnknownSecretError.

        The runtime redacts it in all that the run writes.
        """

    @abstractmethod
    def resource_labels(self) -> Mapping[str, str]:
        """Return the labels for resources outside the process: fleet, run id and lease.

        See `ReapingProvider`. They are not credentials, but are not shown to the skill either.
        """
