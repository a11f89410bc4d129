"""The agent that every worker serves, to try a fleet out with."""

import asyncio

from skillfleet import RunContext
from skillfleet.agent import BuiltInAgent

fleet = BuiltInAgent("fleet", description="Built-in skills to try a fleet out")


@fleet.skill
async def echo(ctx: RunContext, text: str = "", seconds: float = 0) -> str:
    """Return the text, after a while if asked."""
    if seconds > 0:
        await ctx.emit_progress(f"waiting {seconds:g} s")
        await asyncio.sleep(seconds)
    return text
