"""The agent of `benchmarks.durable`."""

import ctypes
import gc
import sys
import time

from skillfleet import Agent, RunContext

agent = Agent("durable", description="Steps and waits to be measured")


@agent.skill(durable=True)
async def ask(ctx: RunContext) -> float:
    """Ask, and return when the attempt that has the answer began (seconds since the epoch)."""
    began = time.time()
    await ctx.ask("Go on?", schema=bool)
    return began


@agent.skill
async def steps(ctx: RunContext, count: int) -> int:
    """Execute `count` steps that return at once."""
    for number in range(count):
        await ctx.step("add", _add, number, key=f"add-{number}")
    return count


@agent.skill
async def free(ctx: RunContext) -> int:
    """Return free memory to the system, and how many blocks Python's objects have allocated."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return sys.getallocatedblocks()


async def _add(number: int) -> int:
    return number + 1
