"""The researcher: answers a question from the library, and has its answer checked."""

import asyncio

from pydantic import BaseModel

from skillfleet import Agent, JWTAuth, RunContext

researcher = Agent(
    "researcher",
    description="Answers questions from the library",
    tags=("research",),
    auth_model=JWTAuth,
    queue="research",
)


class Finding(BaseModel):
    """An answer, its recipient, and the reviewer's verdict."""

    question: str
    answer: str
    reader: str
    checked: bool


@researcher.skill(scopes=("library:read",))
async def research(ctx: RunContext[JWTAuth], question: str, seconds: float = 0.0) -> Finding:
    """Look a question up, which takes `seconds`; needs the scope library:read."""
    await ctx.emit_progress(f"looking up: {question}")
    await asyncio.sleep(seconds)
    answer = f"The library has {len(question)} characters to say about it."
    (reviewer,) = await ctx.discover.find_agents(tags=["review"], limit=1)
    verdict = await ctx.call(reviewer.name, "check", args={"text": answer})
    return Finding(question=question, answer=answer, reader=ctx.auth.sub, checked=verdict.result)
