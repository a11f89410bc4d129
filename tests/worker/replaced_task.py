"""An agent whose module replaces asyncio's classes of tasks and futures, as nest_asyncio does."""

import asyncio
from asyncio import futures, tasks

from skillfleet import Agent, RunContext

asyncio.Task = tasks._CTask = tasks.Task = tasks._PyTask  # type: ignore[attr-defined, misc]
asyncio.Future = futures._CFuture = futures.Future = futures._PyFuture  # type: ignore[attr-defined, misc]

agent = Agent("replaced")


@agent.skill
async def work(ctx: RunContext, value: int) -> int:
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.emit_progress("working"))
    return value


@agent.skill
async def fails(ctx: RunContext) -> None:
    raise ValueError("bad thing")
