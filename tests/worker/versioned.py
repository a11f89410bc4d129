"""Versions of one agent: the second one does not ask for a step that the first one records."""

from skillfleet import Agent, RunContext


def version_one() -> Agent:
    agent = Agent("versioned", version="1.0", description="An agent that is deployed anew")

    @agent.skill(durable=True)
    async def work(ctx: RunContext) -> str:
        await ctx.step("removed later", _step)
        await ctx.step("kept", _step)
        return f"{await ctx.ask('Go?', schema=bool)} by 1.0"

    return agent


def version_two(*compatible: str) -> Agent:
    agent = Agent(
        "versioned",
        version="2.0",
        description="An agent that is deployed anew",
        compatible_versions=compatible,
    )

    @agent.skill(durable=True)
    async def work(ctx: RunContext) -> str:
        await ctx.step("kept", _step)
        return f"{await ctx.ask('Go?', schema=bool)} by 2.0"

    return agent


async def _step() -> int:
    return 1
