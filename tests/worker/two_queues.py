"""Agents that only some workers serve."""

from skillfleet import Agent, RunContext

here = Agent("here", description="On the default queue")
there = Agent("there", description="On a queue of its own", queue="there")


@here.skill(name="add")
async def here_add(ctx: RunContext, x: int) -> int:
    return x + 100


@there.skill(name="add")
async def there_add(ctx: RunContext, x: int) -> int:
    return x + 200
