"""Skills that block the thread they run on."""

import asyncio
import time
from collections.abc import AsyncIterator

from skillfleet import Agent, RunContext

agent = Agent("blocking", description="Skills that never give way")


@agent.skill
async def block(ctx: RunContext, seconds: float) -> None:
    """Hold the thread: no await, no way in for a cancellation."""
    await ctx.emit_progress("blocking")
    await asyncio.sleep(0.05)  # Lets the event leave first, on every pool.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)  # noqa: ASYNC251 - what it is for


@agent.skill
async def emit_and_block(ctx: RunContext, count: int, seconds: float) -> None:
    """Emit without ever giving way between, then hold the thread."""
    for number in range(count):
        await ctx.emit_progress(f"{number}", current=number)
        time.sleep(0.01)  # noqa: ASYNC251 - what it is for
    time.sleep(seconds)  # noqa: ASYNC251 - what it is for


@agent.skill
async def write_pieces(ctx: RunContext, pieces: int, size: int) -> int:
    """Write an artifact out of an async generator that belongs to the handler's own loop."""
    loop = asyncio.get_running_loop()

    async def produce() -> AsyncIterator[bytes]:
        for number in range(pieces):
            await asyncio.sleep(0)
            if asyncio.get_running_loop() is not loop:
                raise RuntimeError("the generator runs on a foreign loop")
            yield bytes([number % 256]) * size

    ref = await ctx.write_artifact("pieces.bin", produce(), "application/octet-stream")
    return ref.size_bytes
