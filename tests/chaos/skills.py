"""The agent of the chaos rounds: each skill notes in a journal outside the fleet what it does."""

import asyncio
import os
import time
from typing import Any

from skillfleet import Agent, RunContext, SkillError
from tests.chaos.notes import note, noted

agent = Agent("chaos", description="What runs while everything breaks")


@agent.skill
async def sleep(ctx: RunContext, journal: str, seconds: float) -> float:
    async with noted(ctx, journal):
        await ctx.emit_progress("sleeping")
        await asyncio.sleep(seconds)
    return seconds


@agent.skill
async def stream(ctx: RunContext, journal: str, count: int, pause: float) -> int:
    """Emit `count` events that are numbered from 0."""
    async with noted(ctx, journal):
        for number in range(count):
            await ctx.emit_progress("numbered", current=number, total=count)
            await asyncio.sleep(pause)
    return count


@agent.skill
async def write(ctx: RunContext, journal: str, size: int) -> int:
    """Write two artifacts; the first one twice."""
    async with noted(ctx, journal):
        for byte in (b"a", b"b"):
            await ctx.write_artifact("twice.bin", byte * size, "application/octet-stream")
            await asyncio.sleep(0.2)
        await ctx.write_artifact("once.bin", b"c" * size, "application/octet-stream")
    return size


@agent.skill
async def parent(ctx: RunContext, journal: str, children: int, seconds: float) -> float:
    """Call children one after the other and two at once; the sum of what they return."""
    args = {"journal": journal, "seconds": seconds}
    async with noted(ctx, journal):
        first = await ctx.call("chaos", "sleep", args=args)
        others = await asyncio.gather(
            *(ctx.call("chaos", "sleep", args=args) for _ in range(children - 1))
        )
    return float(sum(answer.result for answer in (first, *others)))


@agent.skill
async def leave(
    ctx: RunContext, journal: str, how: str, seconds: float, child_seconds: float
) -> str:
    """End after some seconds, while a call is under way that takes longer."""

    async def call(skill: str, seconds: float) -> Any:
        return await ctx.call("chaos", skill, args={"journal": journal, "seconds": seconds})

    async with noted(ctx, journal):
        calling = asyncio.create_task(call("sleep", child_seconds))
        _left.add(calling)
        calling.add_done_callback(_left.discard)
        if how == "raise out of gather":
            await asyncio.gather(calling, call("fail", seconds))
        elif how == "first completed":
            pausing = asyncio.create_task(asyncio.sleep(seconds))
            await asyncio.wait({calling, pausing}, return_when=asyncio.FIRST_COMPLETED)
        elif how == "return":
            await asyncio.sleep(seconds)
    return how


_left: set[asyncio.Task[Any]] = set()
"""What `leave` has left behind: nothing but this keeps it from being collected."""


@agent.skill
async def fail(ctx: RunContext, journal: str, seconds: float) -> None:
    async with noted(ctx, journal):
        await asyncio.sleep(seconds)
        raise SkillError("as ordered")


@agent.skill
async def linked(ctx: RunContext, value: Any, journal: str, order: str) -> Any:
    """Called by Celery with what the run of an order returned; notes which order."""
    async with noted(ctx, journal):
        note(journal, ctx, f"for:{order}")
    return value


@agent.skill(max_retries=5)
async def flaky(ctx: RunContext, journal: str) -> str:
    """Fail in the first two attempts."""
    async with noted(ctx, journal):
        await asyncio.sleep(0.1)
        if ctx.attempt < 3:
            raise SkillError("again", retryable=True, retry_after=0.5)
    return "at last"


@agent.skill
async def block(ctx: RunContext, journal: str, seconds: float) -> float:
    """Hold the thread, as code that should not."""
    async with noted(ctx, journal):
        time.sleep(seconds)  # noqa: ASYNC251 - on purpose
    return seconds


@agent.skill
async def process_id(ctx: RunContext) -> int:
    return os.getpid()
