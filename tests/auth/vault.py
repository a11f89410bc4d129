"""An agent that asks for secrets, and writes what it was answered wherever it can."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from opentelemetry import trace
from pydantic import BaseModel, SecretStr

from skillfleet import Agent, AgentEvent, JWTAuth, NoAuth, RunContext

logger = logging.getLogger(__name__)

vault = Agent("vault", description="Asks for secrets", auth_model=JWTAuth)
plain = Agent("plain", description="Asks anyone for secrets", auth_model=NoAuth)


class Login(BaseModel):
    user: str
    password: SecretStr


def note(journal: str, password: str) -> int:
    """Note what the handler was answered, as a digest; return how often it was."""
    with Path(journal).open("a") as notes:
        notes.write(hashlib.sha256(password.encode()).hexdigest() + "\n")
    return len(Path(journal).read_text().split())


@vault.skill(durable=True, max_retries=1, retry_on=(ConnectionError,))
async def logs_in(ctx: RunContext[JWTAuth], journal: str) -> Any:
    """Write the answer in all ways, and fail with it in the first attempt."""
    login = await ctx.ask("The login?", schema=Login, scopes=("files:read",))
    password = login.password.get_secret_value()
    times = note(journal, password)
    logger.warning("logging in with %s", password)
    with trace.get_tracer("test").start_as_current_span("said", attributes={"k": password}):
        await ctx.emit_event(AgentEvent("used", {"password": password}))
        for letter in f"<{password}>":
            await ctx.emit_text_delta(letter)
    if times == 1:
        raise ConnectionError(f"refused: {password}")
    return {"user": login.user, "password": password}


@plain.skill(durable=True)
async def asks_twice(ctx: RunContext[NoAuth]) -> list[int]:
    first = await ctx.ask("The first?", schema=SecretStr)
    second = await ctx.ask("The second?", schema=SecretStr)
    return [len(first.get_secret_value()), len(second.get_secret_value())]


@plain.skill
async def asks_once(ctx: RunContext[NoAuth]) -> int:
    return len((await ctx.ask("The password?", schema=SecretStr)).get_secret_value())
