"""The editor, who plans a brief and calls the others for it, and the reviewer."""

import asyncio

from pydantic import BaseModel

from skillfleet import Agent, JWTAuth, RunContext

editor = Agent("editor", description="Writes briefs", auth_model=JWTAuth, queue="editors")
reviewer = Agent(
    "reviewer",
    description="Checks what others wrote",
    tags=("review",),
    auth_model=JWTAuth,
    queue="editors",
)
ANGLES = ("who", "when", "why")


class Brief(BaseModel):
    """A short text on a topic, and whether the reviewer passed it."""

    topic: str
    text: str
    passed: bool


@editor.skill
async def brief(ctx: RunContext[JWTAuth], topic: str, seconds: float = 0.0) -> Brief:
    """Ask a researcher from all angles at once, then have the text reviewed."""
    (researcher,) = await ctx.discover.find_agents(tags=["research"], limit=1)
    (checker,) = await ctx.discover.find_agents(tags=["review"], limit=1)
    await ctx.emit_progress(f"asking {researcher.name} from {len(ANGLES)} angles")
    findings = await asyncio.gather(
        *(
            ctx.call(
                researcher.name,
                "research",
                args={"question": f"{angle}: {topic}", "seconds": seconds},
            )
            for angle in ANGLES
        )
    )
    text = "\n".join(finding.result["answer"] for finding in findings)
    verdict = await ctx.call(checker.name, "check", args={"text": text})
    return Brief(topic=topic, text=text, passed=verdict.result)


@reviewer.skill(scopes=("library:read",))
async def check(ctx: RunContext[JWTAuth], text: str) -> bool:
    """Decide if a text can be published; needs the scope library:read."""
    await ctx.check_cancelled()
    return bool(text.strip())


@reviewer.skill(scopes=("library:publish",))
async def publish(ctx: RunContext[JWTAuth], text: str) -> str:
    """Publish a text; needs a scope that readers do not have."""
    return f"published by {ctx.auth.sub}: {text}"


@editor.skill
async def brief_and_publish(ctx: RunContext[JWTAuth], text: str) -> str:
    """Publish on behalf of the caller: refused unless the caller has the right itself."""
    published = await ctx.call("reviewer", "publish", args={"text": text})
    return str(published.result)
