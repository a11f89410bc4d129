"""Child runs: each call of an agent of the fleet is a run, whose parent is the caller's run."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel

from skillfleet.auth import claims_for_call
from skillfleet.contracts import STATE_KIND, TRIMMED_KIND, RunState
from skillfleet.errors import (
    BudgetExhaustedError,
    CancelledByCaller,
    LimitExceededError,
    RunCancelled,
    RunTimedOut,
)
from skillfleet.ports.a2a import NO_OPTIONS, A2AClient, CallOptions, CallResult
from skillfleet.ports.grants import RunGrants
from skillfleet.types import AgentEvent, ArtifactRef
from skillfleet_engine.celery_hooks.slots import release_slot
from skillfleet_engine.loop import bridge
from skillfleet_ledger.retrying import retry_until
from skillfleet_producer import AsyncFleet, AsyncRunHandle
from skillfleet_producer.submission import Options, Parent
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.inline_children import run_inline_if_queued
from skillfleet_worker.attempts.stop_request import StopKind

T = TypeVar("T")
CallWait = Callable[[str], Awaitable[None]]
"""Returns at the end of a called run; see `CallOptions.wait`."""
_ENDS_CALLS = (StopKind.DEADLINE, StopKind.BUDGET)


class ChildCalls(A2AClient):
    """The A2A client that runs the calls of one attempt as child runs.

    A call continues when Redis comes back within `patience` seconds.
    """

    def __init__(
        self,
        fleet: AsyncFleet,
        attempt: Attempt,
        auth: BaseModel,
        patience: float,
        grants: RunGrants,
    ) -> None:
        self._fleet = fleet
        self._attempt = attempt
        self._auth = auth
        self._patience = patience
        self._grants = grants

    async def call(
        self,
        target: str,
        skill: str,
        args: Mapping[str, Any] | None = None,
        options: CallOptions = NO_OPTIONS,
    ) -> CallResult:
        """See `A2AClient.call`; the default key is the call's arguments and position."""
        grant_id = None
        if options.grant is not None:
            grant_id = (await self._grants.hand_over(options.grant, target)).jti
        name, key = f"{target}.{skill}", options.key
        call = f"key:{key}" if key is not None else _position(options, args or {})
        # The child sees what its caller has done.
        await self._attempt.prepare_record()
        handle = await self._at_home(lambda: self._submit(name, args or {}, options, call))
        try:
            async with release_slot() as released:
                # A durable run parks where its slot cannot be given back.
                if released or (options.wait is not None and self._attempt.durable):
                    await self._wait(handle, options.wait)
                else:
                    async with run_inline_if_queued(handle.id, self._attempt):
                        await self._wait(handle, options.wait)
                self._attempt.open_calls -= 1
        except asyncio.CancelledError:
            # Once the handler has ended, the executor ends the runs that it called.
            stop = self._attempt.stop
            if not self._attempt.ended and (stop is None or stop.kind in _ENDS_CALLS):
                await bridge.at_home(handle.cancel("the caller waits no more"))
            raise
        try:
            return await self._at_home(lambda: _call_result(self._fleet, handle, grant_id))
        except RunTimedOut as error:
            # The child may reach a deadline that it shares with its caller a moment earlier.
            error.deadline = (await self._at_home(handle.status)).deadline
            raise
        except RunCancelled:
            # A tree is cancelled leaves first: the caller's own request may be on its way.
            await self._at_home(self._check_cancelled)
            raise

    async def _at_home(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await bridge.at_home(retry_until(self._patience, work))

    async def _submit(
        self, name: str, args: Mapping[str, Any], given: CallOptions, call: str
    ) -> AsyncRunHandle:
        """Start the called run, or find that of an earlier attempt.

        One that failed is started again, unless the caller's journal makes a further attempt get
        the same failure; after a retry of the caller it is started again in any case.
        """
        attempt = self._attempt
        depth = attempt.delivery.depth
        limit = self._fleet.settings.max_tree_depth
        if depth + 1 >= limit:
            raise LimitExceededError(f"runs may be nested {limit} deep: {name} would be deeper")
        attempt.open_calls += 1
        handle, created = await self._start(name, args, given, call)
        if created or attempt.lease.attempt == 1:
            return handle
        state = (await handle.status()).state
        if not state.terminal or state is RunState.SUCCEEDED:
            return handle
        if given.wait is None or state is RunState.CANCELLED:
            again = f"{call}:attempt:{attempt.lease.attempt}"
        elif attempt.lease.retries:
            again = f"{call}:retry:{attempt.lease.retries}"
        else:
            return handle
        handle, _ = await self._start(name, args, given, again)
        return handle

    async def _start(
        self, name: str, args: Mapping[str, Any], given: CallOptions, call: str
    ) -> tuple[AsyncRunHandle, bool]:
        attempt, waits = self._attempt, given.wait is not None
        options = Options(timeout=given.timeout, budget=given.budget)
        header = attempt.delivery.header
        parent = Parent(
            run_id=attempt.run_id,
            root_id=attempt.delivery.root_id,
            depth=attempt.delivery.depth,
            call=call,
            token=attempt.lease.token,
            # Where the caller's clock stands meanwhile, the called run inherits what it has left.
            deadline_ms=attempt.clock.fixed_ms if waits else attempt.deadline_ms,
            allowance_ms=attempt.clock.allowance_ms if waits else None,
            budget_end_ms=header.budget_end_ms if header else None,
            grant=given.grant,
        )
        tenant_claim = self._fleet.settings.tenant_claim
        claims = claims_for_call(attempt.delivery.auth, self._auth, tenant_claim)
        options = replace(options, tags=attempt.lease.tags)
        new = await self._fleet.enqueuer.prepare(name, args, replace(options, auth=claims), parent)
        try:
            created = await self._fleet.enqueuer.submit(new)
        except BudgetExhaustedError:
            raise
        except LimitExceededError:
            await self._check_cancelled()
            raise
        return self._fleet.run(new.id), created

    async def _check_cancelled(self) -> None:
        """Raise CancelledByCaller for a cancelled run: the ledger may know before this process."""
        record = await self._fleet.ledger.queries.invocation(self._attempt.run_id)
        if record is not None and record.cancel_reason is not None:
            self._attempt.cancel(record.cancel_reason, record.cancel_code)
            raise CancelledByCaller(f"the run was cancelled: {record.cancel_reason}")

    async def _wait(self, handle: AsyncRunHandle, wait: CallWait | None) -> None:
        """Return at the child's end; raises CancelledByCaller once the caller is cancelled.

        Raises CancelledError in a task that is still waiting after the handler's end. `wait` waits
        in a way that lets the caller be parked.
        """
        waits = self._at_home(handle.ended) if wait is None else wait(handle.id)
        ended = asyncio.ensure_future(waits)
        stopped = asyncio.ensure_future(self._attempt.wait_stopped())
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if self._attempt.ended:
                raise asyncio.CancelledError
            if not ended.done():
                reason = self._attempt.cancel_reason
                if reason is not None:
                    raise CancelledByCaller(f"the run was cancelled: {reason}")
            await ended
        finally:
            ended.cancel()
            stopped.cancel()


def _position(options: CallOptions, args: Mapping[str, Any]) -> str:
    """Return the key of the n-th call with these arguments; the next attempt repeats it."""
    digest = orjson.dumps(args, option=orjson.OPT_SORT_KEYS, default=repr).decode()
    return f"position:{options.position}:{digest}"


async def _call_result(
    fleet: AsyncFleet, handle: AsyncRunHandle, grant_id: str | None
) -> CallResult:
    value = await handle.result()
    events = [
        AgentEvent(event.kind, event.payload)
        async for event in handle.events()
        if event.kind not in (STATE_KIND, TRIMMED_KIND)
    ]
    artifacts = [
        ArtifactRef(
            info.name, f"skillfleet://{handle.id}/{info.name}", info.mime_type, info.size_bytes
        )
        for info in await fleet.ledger.artifacts.list(handle.id)
    ]
    return CallResult(value, tuple(events), tuple(artifacts), grant_id)
