"""Agents that hand the files of a session to each other, through their workspaces."""

import asyncio
from typing import Any

from skillfleet import Agent, JWTAuth, RunContext
from skillfleet.contracts import WorkspaceMode
from skillfleet.errors import GrantInvalid, WorkspaceDenied
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceView

READ, OVERLAY, DIRECT = WorkspaceMode
ACCESS = WorkspaceAccess.dynamic(
    allowed_modes=(READ, OVERLAY), deny_patterns=("**/.env",), require_reason=False
)
Asked = dict[str, Any]
"""Arguments of `WorkspaceClient.delegate`."""

sharing = Agent("sharing", auth_model=JWTAuth)
using = Agent("using", auth_model=JWTAuth)


@sharing.skill(workspace=ACCESS)
async def delegates(ctx: RunContext[JWTAuth], asked: Asked, granted: str = "**") -> str:
    """Return the token of a part of the session's files."""
    grant = await ctx.workspace.request_access(files=[granted], mode=OVERLAY, reason="")
    return str(await ctx.workspace.delegate(grant, **({"audience": "using"} | asked)))


@sharing.skill(workspace=ACCESS)
async def shares(
    ctx: RunContext[JWTAuth],
    asked: Asked,
    granted: str = "**",
    skill: str = "reads",
    args: dict[str, Any] | None = None,
    calls: int = 1,
) -> Any:
    """Hand a part of the session's files to a run of `using`, or to several."""
    token = await delegates(ctx, asked, granted)
    for number in range(calls):
        called = await ctx.call("using", skill, args=args or {}, grant=token, key=f"{number}")
    return called.result


@sharing.skill(workspace=ACCESS)
async def installs(ctx: RunContext[JWTAuth], token: str) -> None:
    """Install a grant that is for another agent."""
    await ctx.workspace.install_grant(token)


async def outcome(view: WorkspaceView, path: str) -> str:
    try:
        return (await view.read(path)).decode()
    except (WorkspaceDenied, GrantInvalid, FileNotFoundError) as error:
        return type(error).__name__


@using.skill(workspace=ACCESS)
async def reads(
    ctx: RunContext[JWTAuth], paths: list[str] | None = None, token: str | None = None
) -> dict[str, str]:
    """Return the listed files, or the content of others or the class of the error."""
    view = await ctx.workspace.view(await ctx.workspace.install_grant(token))
    listed = [each.path for each in await view.list()]
    return {path: await outcome(view, path) for path in (listed if paths is None else paths)}


@using.skill(workspace=ACCESS)
async def writes(ctx: RunContext[JWTAuth], paths: list[str]) -> list[str]:
    """Commit what may be written; returns the changed paths."""
    view: WorkspaceView = await ctx.workspace.view(await ctx.workspace.install_grant())
    for path in paths:
        try:
            await view.write(path, b"written")
        except WorkspaceDenied:
            continue
    return await view.commit()


@using.skill(workspace=ACCESS)
async def reads_again(ctx: RunContext[JWTAuth]) -> str:
    """Read a file after a person has said so, in a view that was opened before."""
    view: WorkspaceView = await ctx.workspace.view(await ctx.workspace.install_grant())
    await view.read("notes")
    await ctx.ask("Read on?", schema=bool)
    return (await view.read("notes")).decode()


@using.skill(workspace=ACCESS)
async def reads_for_ever(ctx: RunContext[JWTAuth]) -> None:
    """Read a file until that is refused."""
    view = await ctx.workspace.view(await ctx.workspace.install_grant())
    while True:
        await view.read("notes")
        await asyncio.sleep(0.05)


@using.skill(workspace=ACCESS)
async def hands_on(ctx: RunContext[JWTAuth], asked: Asked) -> Any:
    """Hand on what was handed over, to a run of the same agent."""
    await ctx.workspace.install_grant()
    token = await ctx.workspace.delegate(**({"audience": "using"} | asked))
    return (await ctx.call("using", "reads", grant=token)).result
