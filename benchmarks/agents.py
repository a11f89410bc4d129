"""The skills that the benchmark runs."""

import asyncio
import time

from skillfleet import Agent, RunContext

bench = Agent("bench", description="What the benchmark runs")


@bench.skill
async def noop(ctx: RunContext, number: int = 0, text: str = "") -> int:
    """Do nothing."""
    return number


@bench.skill
async def started_at(ctx: RunContext) -> float:
    """Tell when the handler began, by this machine's clock."""
    return time.time()


@bench.skill
async def sleep(ctx: RunContext, seconds: float = 1.0) -> None:
    """Await."""
    await asyncio.sleep(seconds)


@bench.skill
async def stream(ctx: RunContext, count: int) -> int:
    """Emit `count` text deltas of 50 characters as fast as they are taken."""
    for _ in range(count):
        await ctx.emit_text_delta("." * 50)
    return count
