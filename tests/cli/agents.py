"""The agents that the tests of the command line serve; loaded by its file, as a user may do."""

import asyncio
from typing import Any

from skillfleet import Agent, AgentEvent, RunContext, SkillError

kit = Agent("kit", description="Skills of every temper")
annex = Agent("annex", description="On a queue of its own", queue="annex-queue")


@kit.skill
async def add(ctx: RunContext, x: int, y: int = 1) -> int:
    """Add two numbers."""
    return x + y


@kit.skill
async def recite(ctx: RunContext, words: list[str]) -> dict[str, int]:
    """Count words, then stream and store them."""
    for number, word in enumerate(words, start=1):
        await ctx.emit_progress(f"weighing {word}", current=number, total=len(words))
    for word in words:
        await ctx.emit_text_delta(f"{word} ")
    joined = " ".join(words).encode()
    await ctx.emit_artifact(await ctx.write_artifact("deep/words.txt", joined, "text/plain"))
    await ctx.emit_error("one word was dull", code="dull")
    return {"words": len(words)}


@kit.skill
async def big(ctx: RunContext, mebibytes: int) -> None:
    """Write an artifact of many chunks."""
    pieces = (bytes([number]) * 1024 * 1024 for number in range(mebibytes))
    await ctx.write_artifact("big.bin", pieces, "application/octet-stream")


@kit.skill
async def sleep(ctx: RunContext, seconds: float = 60) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


@kit.skill
async def linger(ctx: RunContext) -> None:
    """Take its time to end when it is cancelled."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(4)
        raise


@kit.skill
async def plays(
    ctx: RunContext, events: list[tuple[str, dict[str, Any]]], artifact: str | None = None
) -> Any:
    """Emit events as they are given, write an artifact, and return the last text."""
    for kind, payload in events:
        await ctx.emit_event(AgentEvent(kind, payload))
    if artifact is None:
        return events[-1][1].get("text")
    await ctx.write_artifact("art\u202efact.txt", artifact.encode(), "text/plain")
    return artifact


@kit.skill
async def fail(ctx: RunContext) -> None:
    """End with an error."""
    raise SkillError("the flask broke", code="broken_flask")


@annex.skill
async def greet(ctx: RunContext) -> str:
    """Say hello from the other queue."""
    return "hello"
