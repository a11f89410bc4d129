"""Conformance of contexts: the session that a run belongs to, and its state."""

from typing import Any

from skillfleet import APIKeyAuth, RunContext
from skillfleet.ports.session import MOST_STATE_BYTES
from skillfleet.testing.conformance.run_context.table import SECRETS, Case, agent, code_of


@agent.skill
async def belongs_to(ctx: RunContext[APIKeyAuth]) -> str | None:
    return ctx.session.id if ctx.session is not None else None


@agent.skill
async def remembers(ctx: RunContext[APIKeyAuth], values: list[Any]) -> list[Any]:
    """Save each value, and return what is saved before and after it."""
    assert ctx.session is not None
    seen = [await ctx.session.load("nothing")]
    for value in values:
        await ctx.session.save(value)
        seen.append(await ctx.session.load())
    return seen


@agent.skill(secrets=tuple(SECRETS))
async def cannot_remember(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """Return how saves end that are refused."""
    assert ctx.session is not None
    secret = ctx.secret(next(iter(SECRETS)))
    large = "x" * (MOST_STATE_BYTES - 2)
    values = (object(), large, large + "x", {"token": secret})
    return [await code_of(ctx.session.save(value)) for value in values]


_INVALID = "invalid_session_state"

CASES: tuple[Case, ...] = (
    Case("belongs_to", result=None, note="none"),
    Case("belongs_to", result="one/with:marks", session="one/with:marks"),
    Case(
        "remembers",
        {"values": [{"turns": 1}, None, [1.5, "é"]]},
        result=["nothing", {"turns": 1}, None, [1.5, "é"]],
        session="remembers",
    ),
    Case(
        "cannot_remember",
        result=[_INVALID, "none", _INVALID, _INVALID],
        session="cannot remember",
    ),
)
