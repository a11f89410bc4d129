"""An agent that changes staged files in a sandbox, by steps that are not idempotent."""

import asyncio
from pathlib import Path

from skillfleet import Agent, RunContext
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode

drafts = Agent("drafts")
OVERLAY = WorkspaceMode.READ_WRITE_OVERLAY
ACCESS = WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,))


@drafts.skill(workspace=ACCESS, durable=True)
async def build(ctx: RunContext, until: str) -> list[tuple[str, str, str]]:
    """Return the patch of three steps, of which one waits in between for the file `until`.

    While it does, another step is recorded.
    """
    view = await ctx.workspace.open_view(
        purpose="draft", hints=["**"], mode=OVERLAY, reason="to draft"
    )
    box = await ctx.sandbox.create(SandboxSpec("box", workspace=view))
    is_changed = asyncio.Event()

    async def execute(script: str) -> None:
        result = await box.shell(script)
        if not result.ok:
            raise ValueError(result.output)

    async def change() -> None:
        await execute("echo two >> notes.txt; echo 2 >> new/a; rm old.txt; echo x > new/temporary")
        is_changed.set()
        while not Path(until).exists():  # noqa: ASYNC110, ASYNC240 - a test creates it
            await asyncio.sleep(0.02)
        await execute("echo three >> notes.txt; mv new/a new/b; rm new/temporary; touch old.txt")

    async def note() -> None:
        await is_changed.wait()
        await ctx.step("note", view.write, "noted.txt", b"noted", key="note")

    await ctx.step("build", execute, "echo one >> notes.txt; mkdir new; echo 1 > new/a")
    await asyncio.gather(ctx.step("change", change), note())
    return [
        (patch.path, patch.operation, (patch.content or b"").decode())
        for patch in await view.patches()
    ]
