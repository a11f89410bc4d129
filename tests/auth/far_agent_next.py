"""The next version of the agent in far_agent.py."""

from skillfleet import Agent, RunContext

far = Agent("far", description="On a queue of its own", queue="remote", version="0.2.0")


@far.skill
async def deepens(ctx: RunContext, levels: int, width: int = 1, number: int = 0) -> str:
    return "0.2.0"
