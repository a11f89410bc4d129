"""Skills that block the thread they run on."""

import time

from skillfleet import Agent, RunContext

agent = Agent("blocking", description="Skills that never give way")


@agent.skill
async def block(ctx: RunContext, seconds: float) -> None:
    """Hold the thread: no await, no way in for a cancellation."""
    await ctx.emit_progress("blocking")
    time.sleep(0.05)  # Lets the event leave first, on every pool.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
