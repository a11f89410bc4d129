"""A durable agent: it changes the user's files by Python code that a model writes.

The code is executed in a sandbox, over an overlay of the files; they change once the user has seen
which ones, and agrees. It needs a model behind an API like OpenAI's, such as Ollama:

    export SKILLFLEET_SANDBOX=auto SKILLFLEET_WORKSPACE=directory
    export SKILLFLEET_WORKSPACE_DIRECTORY=/tmp/workspaces
    skillfleet dev examples/coder.py
    skillfleet workspace put docs README.md README.md
    skillfleet enqueue coder.change '{"wish": "number the headings"}' --session docs --follow
    skillfleet answer RUN true
"""

from examples.tidy import AGAIN, Model, said
from skillfleet import Agent, RunContext
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode, WorkspaceView

OVERLAY = WorkspaceMode.READ_WRITE_OVERLAY
RULES = "Answer with a Python program only. It changes files in the current folder, which has: "

coder = Agent("coder", description="Changes files by code in a sandbox")


@coder.skill(
    durable=True,
    timeout=600,
    workspace=WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,), deny_patterns=("**/.env",)),
)
async def change(
    ctx: RunContext,
    wish: str,
    url: str = "http://127.0.0.1:11434/v1",
    model: str = "llama3.2",
) -> str:
    """Change the files of the run's workspace as the user wishes."""
    view = await ctx.workspace.open_view(
        purpose="change files", hints=["**"], max_files=25, mode=OVERLAY, reason=wish
    )
    names = await ctx.step("list", names_in, view, key="list")
    asked = [{"role": "system", "content": RULES + ", ".join(names)}, said(wish)]
    reply = await ctx.step("write", Model(ctx, url, model).reply, asked, retry=AGAIN)
    changes = await ctx.step("execute", execute, ctx, view, reply["content"], key="code")
    if not changes:
        return "nothing changed"
    if not await ctx.ask(f"Commit these changes? {', '.join(changes)}", schema=bool):
        await ctx.step("discard", view.discard)
        return "discarded"
    return f"changed {', '.join(await ctx.step('commit', view.commit))}"


async def names_in(view: WorkspaceView) -> list[str]:
    """Return the paths of the view's files."""
    return [file.path for file in await view.list()]


async def execute(ctx: RunContext, view: WorkspaceView, code: str) -> list[str]:
    """Execute the code in a sandbox over the view; returns the staged changes."""
    await view.discard()  # of an attempt that was lost
    box = await ctx.sandbox.create(SandboxSpec("code", workspace=view))
    result = await box.exec("python3", ["-c", code], timeout=60)
    if not result.ok:
        raise RuntimeError(f"the program failed: {result.stderr}")
    return [f"{patch.operation} {patch.path}" for patch in await view.patches()]
