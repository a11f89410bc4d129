"""An agent that works on files, for tests of workspaces on real workers."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from skillfleet import Agent, RunContext
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode

filing = Agent("filing")
OVERLAY, DIRECT = WorkspaceMode.READ_WRITE_OVERLAY, WorkspaceMode.READ_WRITE_DIRECT
ACCESS = WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,), require_human_approval=True)


async def _until(path: str) -> None:
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - a test's skill may
        await asyncio.sleep(0.01)


@filing.skill(workspace=ACCESS, durable=True)
async def append(ctx: RunContext, line: str) -> str:
    """Append a line to notes.txt, which a person has to approve."""
    view = await ctx.workspace.open_view(
        purpose="notes", hints=["notes.txt"], mode=OVERLAY, reason="to append"
    )
    before = await view.read("notes.txt") if await view.list() else b""
    await view.write("notes.txt", before + line.encode())
    await view.commit()
    return (before + line.encode()).decode()


@filing.skill(workspace=WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,)))
async def edit(ctx: RunContext, gate: str = "") -> dict[str, Any]:
    """Stage changes of all files, and commit them; the first attempt waits at the gate before."""
    view = await ctx.workspace.open_view(
        purpose="edit", hints=["**"], mode=OVERLAY, reason="to edit"
    )
    found = [(each.path, each.operation) for each in await view.patches()]
    if not found:
        await view.write("a.txt", (await view.read("a.txt")).upper())
        await view.delete("b.txt")
        await view.write("deep/c.txt", b"new")
    if gate and ctx.attempt == 1:
        await ctx.emit_progress("staged")
        await _until(gate)
    patches = [(each.path, (each.content or b"").decode()) for each in await view.patches()]
    try:
        await view.commit()
    except BaseException as error:
        Path(gate or "/dev/null").write_text(type(error).__name__)  # noqa: ASYNC240
        raise
    return {"attempt": ctx.attempt, "found": found, "patches": patches}


@filing.skill
async def undeclared(ctx: RunContext) -> None:
    """Ask for what the skill does not declare."""
    await ctx.workspace.search(query="")


@filing.skill(workspace=WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,)), durable=True)
async def draft(ctx: RunContext, until: str) -> list[list[str]]:
    """Stage three changes in steps, wait for the file `until` after two; return the patch."""
    view = await ctx.workspace.open_view(
        purpose="draft", hints=["**"], mode=OVERLAY, reason="to draft"
    )

    async def write(path: str, text: str) -> None:
        await view.write(path, text.encode())

    await ctx.step("write", write, "notes.txt", "two")
    await ctx.step("create", write, "folder/new.txt", "new" * 100_000)
    await _until(until)
    await ctx.step("delete", view.delete, "old.txt")
    return [
        [patch.path, patch.operation, hashlib.sha256(patch.content or b"").hexdigest()]
        for patch in await view.patches()
    ]


@filing.skill(workspace=WorkspaceAccess.dynamic(allowed_modes=(DIRECT,)), durable=True)
async def direct(ctx: RunContext, until: str) -> str:
    """Write a file in a step, and one more before the end."""
    view = await ctx.workspace.open_view(
        purpose="write", hints=["**"], mode=DIRECT, reason="to write"
    )

    async def write() -> None:
        await view.write("step.txt", b"in a step")

    await ctx.step("write", write)
    await _until(until)
    await view.write("end.txt", b"at the end")
    return "written"
