"""An agent whose runs belong to sessions."""

import asyncio
from typing import Any

from skillfleet import Agent, RunContext, SkillError
from skillfleet_producer import AsyncFleet, Fleet

agent = Agent("talking", description="Remembers what it received")


@agent.skill
async def say(ctx: RunContext, text: str, seconds: float = 0.0) -> list[str]:
    """Add a text to those of the session, and return all of them."""
    assert ctx.session is not None
    texts: list[str] = await ctx.session.load([])
    await ctx.emit_text_delta(text)
    await asyncio.sleep(seconds)
    await ctx.session.save([*texts, text])
    return [*texts, text]


@agent.skill(max_retries=1)
async def fails(ctx: RunContext, always: bool, how: str = "fail") -> None:
    """Save, and end in another way than well."""
    assert ctx.session is not None
    await ctx.session.save(f"{how} {ctx.attempt}", always=always)
    await ctx.emit_progress("saved")
    if how == "wait":
        await asyncio.sleep(60)
    raise SkillError("no", retryable=how == "retry", retry_after=0.01)


@agent.skill
async def listens(ctx: RunContext, pause: float = 0.0) -> Any:
    await ctx.emit_progress("listening")
    await asyncio.sleep(pause)
    return await ctx.receive(timeout=30)


@agent.skill
async def waits_for_itself(ctx: RunContext, url: str, how: str) -> str:
    """Enqueue a run of the own session and wait for it."""
    assert ctx.session is not None
    if how == "sync":
        return await asyncio.to_thread(_wait_in_thread, url, ctx.session.id)
    async with AsyncFleet(url) as fleet:
        run = await fleet.session(ctx.session.id).enqueue("talking.say", {"text": how})
        try:
            if how == "events":
                async for _ in run.events(timeout=5):
                    pass
            else:
                await run.result(timeout=5)
        except RuntimeError as error:
            return type(error).__name__
    return "it waited"


def _wait_in_thread(url: str, session: str) -> str:
    with Fleet(url) as fleet:
        run = fleet.session(session).enqueue("talking.say", {"text": "sync"})
        try:
            run.result(timeout=5)
        except RuntimeError as error:
            return type(error).__name__
    return "it waited"
