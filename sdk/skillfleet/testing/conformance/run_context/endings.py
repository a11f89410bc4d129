"""Conformance of contexts: how a run ends."""

import asyncio
from typing import Any

from skillfleet import AgentEvent, APIKeyAuth, CancelledByCaller, RunContext, SkillError
from skillfleet.testing.conformance.run_context.table import Case, Event, agent


@agent.skill
async def add(ctx: RunContext[APIKeyAuth], a: int, b: int = 10) -> int:
    return a + b


@agent.skill
async def wrong_result(ctx: RunContext[APIKeyAuth]) -> int:
    text: Any = "not a number"
    return text  # type: ignore[no-any-return]


@agent.skill
async def large_result(ctx: RunContext[APIKeyAuth]) -> str:
    return "x" * ctx.limits.result_bytes  # with its quotes, two bytes more than a result may have


@agent.skill
async def fails(ctx: RunContext[APIKeyAuth], code: str | None = None) -> None:
    await ctx.emit_progress("about to fail")
    if code is None:
        raise ValueError("a plain error")
    raise SkillError("an error with a code", code=code)


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def second_time_lucky(ctx: RunContext[APIKeyAuth]) -> int:
    await ctx.emit_event(AgentEvent("attempt", {"number": ctx.attempt}))
    if ctx.attempt == 1:
        raise ConnectionError("the first attempt fails")
    return ctx.attempt


@agent.skill(timeout=0.2)
async def overdue(ctx: RunContext[APIKeyAuth]) -> None:
    await asyncio.Event().wait()


@agent.skill
async def polls(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.check_cancelled()
    await ctx.emit_event(AgentEvent("ready"))
    try:
        while True:
            await ctx.check_cancelled()
    except CancelledByCaller:
        await ctx.emit_event(AgentEvent("cleaned_up"))
        raise


@agent.skill
async def only_waits(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.emit_event(AgentEvent("ready"))
    await asyncio.Event().wait()


_READY: Event = ("ready", {})
_FAILING: Event = ("progress", {"message": "about to fail"})

CASES: tuple[Case, ...] = (
    Case("add", {"a": 1}, result=11),
    Case("add", {"a": "1"}, code="invalid_arguments", note="text"),
    Case("add", {"a": 1, "b": 2.0}, result=3, note="whole"),
    Case("add", {"b": 2}, code="invalid_arguments", note="missing"),
    Case("add", {"a": "one"}, code="invalid_arguments", note="type"),
    Case("add", {"a": 1, "c": 1}, code="invalid_arguments", note="unknown"),
    Case("wrong_result", code="invalid_result"),
    Case("large_result", code="result_too_large"),
    Case("fails", code="skill_error", events=(_FAILING,)),
    Case("fails", {"code": "custom"}, code="custom", events=(_FAILING,), note="code"),
    Case(
        "second_time_lucky",
        result=2,
        events=(("attempt", {"number": 1}), ("attempt", {"number": 2})),
    ),
    Case("overdue", code="deadline_exceeded"),
    Case(
        "polls",
        code="cancelled_by_caller",
        events=(_READY, ("cleaned_up", {})),
        cancel_on="ready",
    ),
    Case("only_waits", code="cancelled_by_caller", events=(_READY,), cancel_on="ready"),
)
