"""Agent of the tests of sandboxes on real workers."""

import asyncio
from pathlib import Path
from typing import Any

from skillfleet import Agent, RunContext
from skillfleet.ports.sandbox import SandboxSpec
from tests.adapters.sandbox.processes import LEAVING

boxes = Agent("boxes", description="Executes code in sandboxes")


@boxes.skill()
async def calculate(ctx: RunContext, code: str) -> dict[str, Any]:
    """Execute Python code in a sandbox."""
    result = await ctx.sandbox.run_python(code, timeout=30)
    return {"out": result.stdout, "error": result.stderr, "code": result.exit_code}


async def _occupy(ctx: RunContext, number: int, until: str) -> "asyncio.Task[Any]":
    box = await ctx.sandbox.create(SandboxSpec("box"))
    await box.put("held", b"x")
    started = asyncio.Event()

    async def note(stream: str, data: bytes) -> None:
        started.set()

    task = asyncio.ensure_future(
        box.shell(f"{LEAVING.format(number=number)}exec sleep {number}", on_output=note)
    )
    await started.wait()
    while until and not Path(until).exists():  # noqa: ASYNC110, ASYNC240 - a test's skill may
        await asyncio.sleep(0.01)
    return task


@boxes.skill()
async def occupy(ctx: RunContext, number: int, until: str = "", how: str = "") -> str:
    """Execute a script that leaves processes; end with the value, with an error, or never."""
    task = await _occupy(ctx, number, until)
    if how == "never":
        await task
    if how == "error":
        raise ValueError("the skill fails")
    return "ended"


@boxes.skill(durable=True)
async def park(ctx: RunContext, number: int, until: str) -> str:
    """Execute a script that leaves processes, and ask."""
    await _occupy(ctx, number, until)
    answer: str = await ctx.ask("go on?", schema=str)
    return answer
