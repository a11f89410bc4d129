"""An agent whose skills take typed values, and fail in many ways."""

import datetime as dt
import enum
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from skillfleet import Agent, RunContext, SkillError
from skillfleet.errors import RunFailed

agent = Agent("typed")


@agent.skill
async def text(ctx: RunContext, v: str) -> str:
    return v


@agent.skill
async def number(ctx: RunContext, v: int) -> int:
    return v


@agent.skill
async def money(ctx: RunContext, v: Decimal) -> str:
    return str(v)


@agent.skill
async def raw(ctx: RunContext, v: bytes) -> list[int]:
    return list(v)


@agent.skill
async def when(ctx: RunContext, v: dt.datetime) -> str:
    return v.isoformat()


@agent.skill
async def anything(ctx: RunContext, v: Any) -> Any:
    return v


class Quota(enum.Enum):
    USED_UP = "quota"


CODES: dict[str, Any] = {
    "int": 429,
    "status": HTTPStatus.TOO_MANY_REQUESTS,
    "enum": Quota.USED_UP,
    "bytes": b"quota",
    "list": ["a"],
    "surrogate": "\ud800",
    "long": "c" * 100_000,
}


@agent.skill
async def fails(ctx: RunContext, how: str) -> None:
    raise SkillError({"why": how}, code=CODES[how])


@agent.skill
async def calls(ctx: RunContext, how: str) -> str:
    try:
        await ctx.call("typed", "fails", args={"how": how})
    except RunFailed as error:
        return error.code
    raise AssertionError


@agent.skill(max_retries=1)
async def busy(ctx: RunContext, errors: list[list[Any]]) -> int:
    """Fails once, with a group of errors: whether each may be retried, and when."""
    if ctx.attempt == 1:
        group = [
            SkillError(f"no {n}", retryable=r, retry_after=a) for n, (r, a) in enumerate(errors)
        ]
        raise ExceptionGroup("several", group)
    return ctx.attempt
