"""Conformance of contexts: who calls, and until when."""

from datetime import UTC, datetime
from typing import Any

from skillfleet import APIKeyAuth, RunContext
from skillfleet.testing.conformance.run_context.table import AUTH, Case, agent


@agent.skill
async def identity(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    return {
        "has_task_id": isinstance(ctx.task_id, str) and ctx.task_id != "",
        "auth": ctx.auth.model_dump(mode="json"),
        "attempt": ctx.attempt,
        "shutting_down": ctx.shutting_down,
    }


@agent.skill(timeout=60)
async def deadline(ctx: RunContext[APIKeyAuth]) -> dict[str, bool]:
    end = ctx.deadline
    if end is None:
        return {"known": False}
    remaining = (end - datetime.now(UTC)).total_seconds()
    return {"known": True, "within_timeout": 0 < remaining <= 61, "utc": end.tzinfo is UTC}


CASES: tuple[Case, ...] = (
    Case(
        "identity",
        result={"has_task_id": True, "auth": dict(AUTH), "attempt": 1, "shutting_down": False},
    ),
    Case("deadline", result={"known": True, "within_timeout": True, "utc": True}),
)
