"""Skills that fail inside a TaskGroup."""

import asyncio

from skillfleet import Agent, RunContext, SkillError

grouped = Agent("grouped")


@grouped.skill
async def fail(ctx: RunContext) -> None:
    async def first() -> None:
        raise SkillError("the folder is gone", code="gone")

    async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
        inner.create_task(first())
        outer.create_task(asyncio.sleep(60))


@grouped.skill(max_retries=1)
async def pass_later(ctx: RunContext) -> int:
    async def first() -> None:
        if ctx.attempt == 1:
            raise SkillError("busy", retryable=True, retry_after=0.01)

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
    return ctx.attempt
