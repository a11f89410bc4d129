"""An agent that works on files, for tests of workspaces on real workers."""

from skillfleet import Agent, RunContext
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode

filing = Agent("filing")
OVERLAY = WorkspaceMode.READ_WRITE_OVERLAY
ACCESS = WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,), require_human_approval=True)


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


@filing.skill
async def undeclared(ctx: RunContext) -> None:
    """Ask for what the skill does not declare."""
    await ctx.workspace.search(query="")
