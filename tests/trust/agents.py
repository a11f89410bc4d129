"""The agents of the tests of trust: each skill says what it was given, so that a test can look."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from skillfleet import Agent, JWTAuth, NoAuth, RunContext

logger = logging.getLogger(__name__)


def note(journal: str) -> None:
    """Leave a trace that the handler was there."""
    Path(journal).touch()


gate = Agent("gate", description="Skills behind a signature", auth_model=JWTAuth)


@gate.skill
async def whoami(ctx: RunContext[JWTAuth], note: str = "") -> dict[str, Any]:
    return ctx.auth.model_dump(mode="json")


@gate.skill(scopes=("files:read",))
async def reads(ctx: RunContext[JWTAuth], journal: str = "") -> str:
    if journal:
        note(journal)
    return "read"


@gate.skill
async def marks(ctx: RunContext[JWTAuth], journal: str) -> str:
    note(journal)
    return "marked"


@gate.skill
async def asks_inside(ctx: RunContext[JWTAuth]) -> str:
    ctx.require_scopes(("files:write",))
    return "wrote"


@gate.skill
async def calls(ctx: RunContext[JWTAuth], skill: str, depth: int = 0) -> Any:
    """Call a skill of this agent, `depth` calls of itself further down."""
    args: dict[str, Any] = {"skill": skill, "depth": depth - 1} if depth else {}
    answer = await ctx.call("gate", "calls" if depth else skill, args=args)
    return answer.result


@gate.skill
async def waits(ctx: RunContext[JWTAuth], seconds: float = 60) -> None:
    await ctx.emit_progress("waiting")
    await asyncio.sleep(seconds)


open_door = Agent("open", description="Skills that do not care who calls", auth_model=NoAuth)


@open_door.skill
async def relays(ctx: RunContext[NoAuth], skill: str) -> Any:
    return (await ctx.call("gate", skill)).result
