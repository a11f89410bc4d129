"""The skill of the rounds on sessions; a journal outside of the fleet records its attempts."""

import asyncio
import os
from pathlib import Path

from skillfleet import Agent, RunContext

agent = Agent("talk", description="Appends to the state of its session")


def note(journal: str, *words: object) -> None:
    """Append one line to the journal, durably."""
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(" ".join(str(word) for word in words) + "\n")
        file.flush()
        os.fsync(file.fileno())


@agent.skill
async def add(ctx: RunContext, journal: str, seconds: float) -> int:
    """Add the run's id to the state; returns how many it holds now."""
    assert ctx.session is not None
    note(journal, ctx.session.id, ctx.task_id, "start")
    run_ids: list[str] = await ctx.session.load([])
    await asyncio.sleep(seconds)
    await ctx.session.save([*run_ids, ctx.task_id])
    note(journal, ctx.session.id, ctx.task_id, "end")
    return len(run_ids) + 1
