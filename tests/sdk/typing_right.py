"""Code that type checkers must accept; read by test_typing.py."""

import asyncio
from typing import assert_type

from pydantic import BaseModel

from skillfleet import (
    Agent,
    AgentEvent,
    ArtifactRef,
    CallResult,
    JWTAuth,
    LocalRunContext,
    NoAuth,
    RetryPolicy,
    RunContext,
)
from skillfleet.testing.in_process import InProcessA2AClient, LocalDiscovery
from skillfleet.testing.runner import run_skill


class Survey(BaseModel):
    files: int


tools = Agent("tools")
club = Agent("club", auth_model=JWTAuth)


@tools.skill
async def survey(ctx: RunContext, folder: str, top: int = 10) -> Survey:
    await ctx.emit_progress(folder, current=1, total=top)
    await ctx.emit_event(AgentEvent("found", {"files": 1}))
    return Survey(files=top)


@tools.skill(timeout=3, max_retries=1, retry_on=(ConnectionError,), tags=["a"])
async def nothing(ctx: RunContext[NoAuth], *, flag: bool = False) -> None:
    ref = await ctx.write_artifact("a", b"", "text/plain")
    assert_type(ref, ArtifactRef)
    await ctx.write_artifact("b", [b"1", b"2"], "text/plain")
    assert_type(ctx.auth, NoAuth)


@club.skill(scopes=("read",))
async def members(ctx: RunContext[JWTAuth]) -> list[str]:
    answer = await ctx.call("tools", "survey", args={"folder": ctx.auth.sub}, timeout=3)
    assert_type(answer, CallResult)
    return [ctx.auth.sub]


async def fetch(url: str) -> bytes:
    return url.encode()


def measure(data: bytes) -> int:
    return len(data)


@tools.skill(durable=True)
async def durable(ctx: RunContext) -> None:
    data = await ctx.step("fetch", fetch, "https://example.org", key="page", timeout=5)
    assert_type(data, bytes)
    assert_type(await ctx.step("measure", measure, data, retry=RetryPolicy(max_retries=2)), int)
    assert_type(await ctx.step("sure", lambda: True), bool)
    assert_type(await ctx.ask("Name?"), str)
    assert_type(await ctx.ask("Sure?", schema=bool, timeout=60, key="sure", scopes=("a",)), bool)
    assert_type(await ctx.ask("Which?", schema=Survey), Survey)
    await ctx.sleep(1)
    assert_type(ctx.step_key, str)


async def main() -> None:
    ctx = LocalRunContext(auth=NoAuth())
    assert_type(await survey(ctx, folder="x"), Survey)
    assert_type(await survey(ctx, "x", 3), Survey)
    assert_type(await nothing(ctx, flag=True), None)
    client = InProcessA2AClient([tools, club])
    member = LocalRunContext(auth=JWTAuth(sub="ada"), a2a=client, discover=LocalDiscovery([tools]))
    assert_type(await members(member), list[str])
    assert_type(member.auth, JWTAuth)
    await run_skill(survey, ctx, {"folder": "x"})


asyncio.run(main())
