"""The small examples of docs/durable.md, in memory."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext, StepFailed, StepKeyRequired
from skillfleet.testing import InstantClock, run_to_end

dice = Agent("dice", description="Shows what belongs in a step")


@dice.skill
async def lengths(ctx: RunContext, words: list[str]) -> list[int]:
    """Execute steps at once: their arguments distinguish them."""
    return await asyncio.gather(*(ctx.step("length", len, word) for word in words))


@dice.skill
async def throw(ctx: RunContext, times: int) -> list[int]:
    """Equal steps that are under way at once need keys."""
    throws = (ctx.step("throw", random.randint, 1, 6, key=f"throw {n}") for n in range(times))
    return await asyncio.gather(*throws)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dice.skill
async def greet(ctx: RunContext) -> str:
    """Record the time, as it decides what the run does."""
    now = await ctx.step("now", utc_now)
    return "good morning" if now.hour < 12 else "good afternoon"


@dice.skill(max_retries=1)
async def careful(ctx: RunContext) -> str:
    """Catch the failure of a step: it is final, in this attempt and in later ones."""
    try:
        await ctx.step("break", int, "no number")
    except StepFailed as failed:
        return f"{failed.step}: {failed.error_type}"
    return "nothing broke"


def context() -> LocalRunContext[NoAuth]:
    return LocalRunContext(auth=NoAuth())


async def test_steps_run_at_once() -> None:
    assert await run_to_end(lengths, context(), {"words": ["a", "bb", "c"]}) == [1, 2, 1]


async def test_equal_steps_at_once_need_keys() -> None:
    ctx = context()
    thrown = await run_to_end(throw, ctx, {"times": 5})
    again = LocalRunContext(auth=NoAuth(), journal=ctx.journal)
    assert await throw(again, times=5) == thrown, "a later attempt gets the recorded results"
    with pytest.raises(StepKeyRequired):
        await asyncio.gather(*(context_step for context_step in two_equal_steps(context())))


def two_equal_steps(ctx: LocalRunContext[NoAuth]) -> list["asyncio.Future[int]"]:
    return [asyncio.ensure_future(ctx.step("throw", random.randint, 1, 6)) for _ in range(2)]


async def test_the_time_is_recorded() -> None:
    ctx = context()
    greeting = await greet(ctx)
    assert await greet(LocalRunContext(auth=NoAuth(), journal=ctx.journal)) == greeting
    assert [step.name for step in ctx.journal.steps()] == ["now"]


async def test_a_caught_failure_is_final() -> None:
    assert await run_to_end(careful, context(), {}) == "break: ValueError"


async def test_pauses_end_at_once_by_the_test_clock() -> None:
    ctx = LocalRunContext(auth=NoAuth(), clock=InstantClock())
    before = ctx.clock.now()
    await ctx.sleep(3600)
    assert ctx.clock.now() == before + 3600
