"""Patterns of larger skills: calls, retries, secrets, callers, blocking code, cleaning up."""

import asyncio
import hashlib
import tempfile
from pathlib import Path

from pydantic import BaseModel

from skillfleet import Agent, CancelledByCaller, RunContext, SkillError


class Caller(BaseModel):
    """The caller; the backend passes it as `auth`."""

    tenant: str
    scopes: tuple[str, ...] = ()


patterns = Agent("patterns", description="What skills of some size need", auth_model=Caller)


@patterns.skill
async def compare(ctx: RunContext[Caller], first: str, second: str) -> str:
    """Call another agent's skill twice at once; each call is a child run."""
    calls = [ctx.call("words", "count", args={"text": text}) for text in (first, second)]
    one, two = [reply.result["words"] for reply in await asyncio.gather(*calls)]
    return "as long" if one == two else "longer" if one > two else "shorter"


@patterns.skill(max_retries=3, retry_on=(ConnectionError,))
async def fetch(ctx: RunContext[Caller], page: str) -> str:
    """Retry temporary failures, with a growing backoff."""
    match ctx.attempt:
        case 1:
            raise ConnectionError("the connection was reset")
        case 2:
            raise SkillError("too many requests", code="busy", retryable=True, retry_after=0.1)
    return f"{page}, at attempt {ctx.attempt}"


@patterns.skill(scopes=("reports:read",), secrets=("signing-key",))
async def sign(ctx: RunContext[Caller], text: str) -> str:
    """Sign a text; requires a scope, and reads a declared secret."""
    key = ctx.secret("signing-key")
    return hashlib.sha256(f"{key}{ctx.auth.tenant}{text}".encode()).hexdigest()


@patterns.skill(timeout=300)
async def crunch(ctx: RunContext[Caller], rounds: int) -> str:
    """Run blocking code in a thread: on the event loop it would stop all other runs."""
    digest = b""
    for number in range(rounds):
        await ctx.check_cancelled()
        digest = await asyncio.to_thread(hashlib.pbkdf2_hmac, "sha256", digest, b"salt", 10_000)
        await ctx.emit_progress("crunching", current=number + 1, total=rounds)
    return digest.hex()


@patterns.skill
async def careful(ctx: RunContext[Caller], seconds: float) -> None:
    """Clean up at every end of the run: `finally` also runs when the run is cancelled."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "half-done").touch()
        await ctx.emit_progress("at work")
        try:
            await asyncio.sleep(seconds)
            await ctx.check_cancelled()
        except (CancelledByCaller, asyncio.CancelledError):
            await ctx.emit_error("stopped half-way")
            raise
