"""Mistakes that type checkers must report: each is expected, so that an ignore would be unused.

Read by test_typing.py, never run.
"""

from skillfleet import Agent, AgentEvent, JWTAuth, LocalRunContext, NoAuth, RunContext

tools = Agent("tools")


@tools.skill
async def survey(ctx: RunContext, folder: str, top: int = 10) -> int:
    return top


@tools.skill(timeout=3)
async def called(ctx: RunContext[JWTAuth], folder: str) -> int:
    return 1


async def main(ctx: LocalRunContext[NoAuth]) -> None:
    await survey(ctx)  # type: ignore[call-arg]
    await survey(ctx, folder=3)  # type: ignore[arg-type]
    await survey(ctx, folder="x", depth=3)  # type: ignore[call-arg]
    await survey("no context", folder="x")  # type: ignore[arg-type]
    await called(ctx, folder="x")  # type: ignore[arg-type]
    text: str = await survey(ctx, folder="x")  # type: ignore[assignment]
    await ctx.emit_event({"kind": "dict"})  # type: ignore[arg-type]
    await ctx.write_artifact("a", "text", "text/plain")  # type: ignore[arg-type]
    await ctx.call("tools", "survey", arguments={})  # type: ignore[call-arg]
    AgentEvent("kind").kind = text  # type: ignore[misc]
    text = ctx.auth.sub  # type: ignore[attr-defined]
    ctx.shutting_down = True  # type: ignore[misc]
    LocalRunContext()  # type: ignore[call-arg]
    Agent("a", auth_model=dict)  # type: ignore[arg-type]
    tools.skill(timeout="5s")  # type: ignore[call-overload]


@tools.skill  # type: ignore[arg-type]
async def no_context(folder: str) -> int:
    return 1


@tools.skill  # type: ignore[arg-type]
def not_async(ctx: RunContext) -> int:
    return 1


@tools.skill(timeout=3)  # type: ignore[arg-type]
def not_async_either(ctx: RunContext) -> int:
    return 1
