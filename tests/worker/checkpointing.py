"""An agent that keeps a folder and its journal in agreement by checkpoints."""

import asyncio
from pathlib import Path

from skillfleet import Agent, RunContext

keeper = Agent("keeper")


@keeper.skill(durable=True)
async def write(ctx: RunContext, folder: str, until: str, owned: bool) -> list[int]:
    """Append three lines in steps; before the second is recorded, wait for the file `until`."""
    path = Path(folder)
    await ctx.checkpoints.resume(path, owned=owned)

    async def append(number: int) -> int:
        with (path / "lines").open("a") as file:
            file.write(f"{number}\n")
        made = await ctx.checkpoints.create(path, message=f"line {number}")
        while number == 1 and not Path(until).exists():  # noqa: ASYNC110, ASYNC240 - a test
            await asyncio.sleep(0.02)
        return made.position or 0

    return [await ctx.step("append", append, number) for number in range(3)]
