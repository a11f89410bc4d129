"""Skills that open a client with an external resource, and end in every way."""

import asyncio
import time

from skillfleet import Agent, AgentEvent, RunContext

registry = Agent("registry")


async def use(ctx: RunContext) -> list[str]:
    found = await ctx.discover.find_agents()
    await ctx.emit_event(AgentEvent("opened"))
    return [agent.name for agent in found]


@registry.skill(secrets=("acme-key",))
async def succeeds(ctx: RunContext) -> dict[str, object]:
    key = ctx.secret("acme-key")
    return {"agents": await use(ctx), "key": [len(key), key[:2]]}


@registry.skill
async def fails(ctx: RunContext) -> None:
    await use(ctx)
    raise ValueError("it fails")


@registry.skill(timeout=1.0)
async def is_late(ctx: RunContext) -> None:
    await use(ctx)
    await asyncio.sleep(60)


@registry.skill
async def waits(ctx: RunContext) -> None:
    await use(ctx)
    await asyncio.sleep(120)


@registry.skill
async def resists(ctx: RunContext) -> None:
    """Ignore its cancellation, but for the test's end."""
    await use(ctx)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue


@registry.skill
async def blocks(ctx: RunContext) -> None:
    if ctx.attempt == 1:
        await use(ctx)
        time.sleep(60)  # noqa: ASYNC251 - the mistake under test
