"""The same jobs as skills."""

import asyncio
import os
import time

from benchmarks.peers import awaiting, blocking
from skillfleet import Agent, CancelledByCaller, RunContext

bench = Agent("bench", description="What the benchmark runs")


@bench.skill
async def noop(ctx: RunContext, number: int = 0, text: str = "") -> int:
    """Do nothing."""
    return number


@bench.skill
async def started(ctx: RunContext) -> float:
    """Return the time of its start, by this machine's clock."""
    return time.time()


@bench.skill
async def sleep(ctx: RunContext, seconds: float) -> float:
    """Await."""
    return await awaiting.sleep(seconds)


@bench.skill
async def stream(ctx: RunContext, count: int) -> int:
    """Emit text deltas of 50 characters; the first holds the time."""
    await ctx.emit_text_delta(str(time.time()).ljust(blocking.TEXT))
    for _ in range(count - 1):
        await ctx.emit_text_delta("." * blocking.TEXT)
    return count


@bench.skill
async def hold(ctx: RunContext, mark: str, count: int, seconds: float) -> int:
    """Occupy a slot."""
    return await awaiting.hold(mark, count, seconds)


@bench.skill
async def hold_emitting(ctx: RunContext, mark: str, count: int, seconds: float) -> int:
    """Occupy a slot after an event of its own."""
    await ctx.emit_progress("held")
    return await awaiting.hold(mark, count, seconds)


@bench.skill
async def wait(ctx: RunContext, mark: str) -> None:
    """Check every millisecond whether the run was cancelled, and record when that was seen."""
    await awaiting.client().set(f"{mark}:started", 1)
    try:
        while True:
            await ctx.check_cancelled()
            await asyncio.sleep(0.001)
    except CancelledByCaller:
        seen = time.time()
        await awaiting.client().set(f"{mark}:seen", seen)
        raise


@bench.skill
async def artifact(ctx: RunContext, mib: int) -> float:
    """Write an artifact of random bytes; returns the seconds that took."""
    data = os.urandom(mib << 20)
    began = time.perf_counter()
    await ctx.write_artifact("blob", data, "application/octet-stream")
    return time.perf_counter() - began
