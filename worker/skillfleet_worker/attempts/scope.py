"""The run scope of a worker: what adapters see of an attempt."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from skillfleet.contracts import from_millis
from skillfleet.errors import (
    BudgetExhaustedError,
    CancelledByCaller,
    FleetUnavailableError,
    LimitExceededError,
)
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.grants import GrantAuthority, GrantParty, RunGrants
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL, Cleanup, RunScope
from skillfleet_engine.celery_hooks.slots import release_slot
from skillfleet_engine.loop import bridge
from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.retrying import retry_until
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.declared_secrets import DeclaredSecrets
from skillfleet_worker.attempts.session import session_of
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest

T = TypeVar("T")


@dataclass(slots=True)
class ScopeState:
    """The attempt behind a scope, and what charging its budgets needs."""

    attempt: Attempt
    auth: BaseModel
    ledger: Ledger
    fleet: str
    patience_seconds: float
    authority: GrantAuthority
    secrets: DeclaredSecrets
    charges: set["asyncio.Task[None]"] = field(default_factory=set)
    """The charges of tokens that are under way."""

    @property
    def deadline(self) -> datetime | None:
        """The time at which the attempt is stopped (UTC); None without a deadline."""
        deadline = self.attempt.deadline_ms
        return None if deadline is None else from_millis(deadline)

    @property
    def grants(self) -> RunGrants:
        """The grants of the run, which is known by its caller's claims as they were admitted."""
        attempt, settings = self.attempt, self.ledger.settings
        delivery, claims = attempt.delivery, attempt.delivery.auth or {}
        party = GrantParty(
            run_id=attempt.run_id,
            agent=delivery.agent,
            root_id=delivery.root_id,
            session=session_of(attempt, self.ledger),
            subject=str(claims.get("sub") or ""),
            tenant=claims.get(settings.tenant_claim) if settings.tenant_claim else None,
        )
        handed_over = delivery.header.grant if delivery.header else None
        return RunGrants(self.authority, party, self._at_home, handed_over)

    async def _at_home(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await bridge.at_home(work)

    async def charge_call(self) -> None:
        """See `RunScope.charge_call`."""
        attempt, budgets = self.attempt, self.ledger.budgets
        try:
            await bridge.at_home(
                retry_until(self.patience_seconds, lambda: budgets.charge_call(attempt.lease))
            )
        except BudgetExhaustedError:
            raise
        except LimitExceededError:
            if attempt.cancel_reason is not None:
                raise CancelledByCaller(f"the run was cancelled: {attempt.cancel_reason}") from None
            raise

    def charge_tokens(self, tokens: int) -> None:
        """See `RunScope.charge_tokens`."""
        self.attempt.loop.call_soon_threadsafe(self._begin_charge, tokens)

    async def check_lease(self) -> None:
        """See `RunScope.check_lease`."""
        attempt, leases = self.attempt, self.ledger.leases
        token = {attempt.run_id: attempt.lease.token}
        timeout = self.ledger.settings.redis_timeout_seconds
        work = retry_until(self.patience_seconds, lambda: leases.held(token, timeout))
        if not attempt.has_lease or not await bridge.at_home(work):
            attempt.lose()
            raise LeaseLostError(attempt.run_id)

    async def finish_charges(self) -> None:
        """Wait until all tokens are charged."""
        if self.charges:
            await asyncio.wait(self.charges)

    def _begin_charge(self, tokens: int) -> None:
        task = asyncio.create_task(bridge.at_home(self._charge(tokens)))
        self.charges.add(task)
        task.add_done_callback(self.charges.discard)

    async def _charge(self, tokens: int) -> None:
        """Charge the tree's budgets; the run that uses one up is stopped."""
        with contextlib.suppress(FleetUnavailableError):
            if await self.ledger.budgets.charge_tokens(self.attempt.run_id, tokens):
                self.attempt.request_stop(
                    StopRequest(StopKind.BUDGET, "the tree's budget of tokens is used up")
                )


_states: Final[HiddenState[ScopeState]] = HiddenState()


class AttemptScope(RunScope):
    """The scope of one attempt; its state is not reachable through it."""

    def __init__(self, state: ScopeState) -> None:
        _states.attach(self, state)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return _states.of(self).attempt.run_id

    @property
    def root_id(self) -> str:
        """The id of the run at the root of the tree."""
        return _states.of(self).attempt.delivery.root_id

    @property
    def session_id(self) -> str | None:
        """The name of the run's session in the ledger; None without one."""
        state = _states.of(self)
        return session_of(state.attempt, state.ledger)

    @property
    def attempt(self) -> int:
        """The number of this attempt."""
        return _states.of(self).attempt.lease.attempt

    @property
    def auth(self) -> BaseModel:
        """The caller."""
        return _states.of(self).auth

    @property
    def grants(self) -> RunGrants:
        """The grants of the run."""
        return _states.of(self).grants

    @property
    def deadline(self) -> datetime | None:
        """The time at which the attempt is stopped (UTC); None without a deadline."""
        return _states.of(self).deadline

    @property
    def cancel_reason(self) -> str | None:
        """The reason for the cancellation; None while the run is not cancelled."""
        return _states.of(self).attempt.cancel_reason

    async def wait_cancelled(self) -> None:
        """Return once the run is cancelled."""
        attempt = _states.of(self).attempt
        await attempt.wait_stopped()
        if attempt.cancel_reason is None:
            # It ends for another reason: waiting code is cancelled with it.
            await asyncio.get_running_loop().create_future()

    async def charge_call(self) -> None:
        """Charge one call to the budgets of the tree, in the ledger."""
        await _states.of(self).charge_call()

    def charge_tokens(self, tokens: int) -> None:
        """Charge tokens to the budgets of the tree, in the ledger."""
        _states.of(self).charge_tokens(tokens)

    def release_slot(self) -> contextlib.AbstractAsyncContextManager[bool]:
        """Give the slot back where the pool allows it."""
        return release_slot()

    async def on_home_loop(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on the process's home loop."""
        return await bridge.at_home(coro)

    def defer(self, cleanup: Cleanup) -> None:
        """Run `cleanup` at the end of the attempt."""
        _states.of(self).attempt.cleanups.add(cleanup)

    async def check_lease(self) -> None:
        """Raise LeaseLostError unless the ledger has this attempt's lease."""
        await _states.of(self).check_lease()

    def before_record(self, write: Callable[[], Awaitable[None]]) -> None:
        """Await `write` before steps and waits, and the handler's success, are recorded."""
        _states.of(self).attempt.before_record(write)

    def secret(self, name: str) -> str:
        """Return the value of a declared secret."""
        return _states.of(self).secrets.value(name)

    def resource_labels(self) -> Mapping[str, str]:
        """Fleet, run id and lease token."""
        state = _states.of(self)
        lease = state.attempt.lease
        return {
            FLEET_LABEL: state.fleet,
            RUN_LABEL: lease.run_id,
            LEASE_LABEL: str(lease.token),
        }
