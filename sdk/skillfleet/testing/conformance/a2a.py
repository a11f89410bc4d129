"""Conformance of clients that call agents."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.contracts import Budget
from skillfleet.errors import (
    BudgetExhaustedError,
    CapabilityUnavailableError,
    GrantInvalid,
    RunFailed,
    RunTimedOut,
)
from skillfleet.ports.a2a import A2AProvider

Body = Callable[[LocalRunContext[Any], str], Awaitable[None]]


class A2ASuite(ABC):
    """Subclass it as `Test...` and implement `provider`."""

    @abstractmethod
    def provider(self) -> AbstractAsyncContextManager[tuple[A2AProvider, str]]:
        """Return a provider, and the target of an agent that its clients may call.

        The agent has three skills: `add(x, y)` returns `{"sum": x + y}`, `fail()` fails,
        `wait()` ends when it is cancelled.
        """

    def run(self, body: Body, budget: Budget | None = None) -> None:
        """Await `body` with the context of a run, and the target."""

        async def main() -> None:
            async with self.provider() as (provider, target):
                ctx = LocalRunContext(auth=NoAuth(), a2a=provider, budget=budget)
                try:
                    await body(ctx, target)
                finally:
                    await ctx.aclose()
                    await provider.aclose()

        asyncio.run(main())

    def test_returns_the_result_as_json(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            answer = await ctx.call(target, "add", args={"x": 2, "y": 3})
            assert answer.result == {"sum": 5}

        self.run(body)

    def test_calls_run_at_once(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            calls = (ctx.call(target, "add", args={"x": n, "y": 1}) for n in range(10))
            answers = await asyncio.gather(*calls)
            assert [answer.result["sum"] for answer in answers] == list(range(1, 11))

        self.run(body)

    def test_a_failure_is_the_runs_error(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            with pytest.raises(RunFailed) as failed:
                await ctx.call(target, "fail")
            assert failed.value.code

        self.run(body)

    def test_a_timeout_ends_the_call(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            began = time.monotonic()
            with pytest.raises(RunTimedOut) as late:
                await ctx.call(target, "wait", timeout=0.5)
            assert late.value.code == "deadline_exceeded"
            assert time.monotonic() - began < 30

        self.run(body)

    def test_a_budget_of_time_ends_the_call_with_its_own_code(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            with pytest.raises(RunTimedOut) as late:
                await ctx.call(target, "wait", budget=Budget(seconds=0.5))
            assert late.value.code == "budget_exhausted"

        self.run(body)

    def test_a_cancelled_call_ends_at_once(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            call = asyncio.ensure_future(ctx.call(target, "wait"))
            await asyncio.sleep(0.5)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(call, 30)

        self.run(body)

    def test_calls_are_charged_to_the_callers_budget(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            await ctx.call(target, "add", args={"x": 1, "y": 1})
            with pytest.raises(BudgetExhaustedError):
                await ctx.call(target, "add", args={"x": 1, "y": 2})

        self.run(body, Budget(calls=1))

    def test_a_grant_that_cannot_be_handed_over_is_refused(self) -> None:
        async def body(ctx: LocalRunContext[Any], target: str) -> None:
            with pytest.raises((CapabilityUnavailableError, GrantInvalid)):
                await ctx.call(target, "add", args={"x": 1, "y": 1}, grant="token")

        self.run(body)
