"""Conformance of contexts: what a tree of runs may use up, and its other limits."""

import asyncio

from skillfleet import APIKeyAuth, RunContext
from skillfleet.contracts import Budget
from skillfleet.testing.conformance.run_context.table import Case, agent, code_of

FOREVER = 60.0


@agent.skill
async def leaf(ctx: RunContext[APIKeyAuth], number: int = 0, seconds: float = 0) -> int:
    await asyncio.sleep(seconds)
    return number


@agent.skill
async def fans(ctx: RunContext[APIKeyAuth], count: int, below: int = 0) -> int:
    """Call so many leaves one by one, so many runs further down."""
    if below:
        args = {"count": count, "below": below - 1}
        return int((await ctx.call("conformance", "fans", args=args)).result)
    for number in range(count):
        await ctx.call("conformance", "leaf", args={"number": number})
    return count


@agent.skill
async def counts_what_is_left(ctx: RunContext[APIKeyAuth], count: int) -> list[str]:
    """Return how each of `count` calls ends."""
    return [
        await code_of(ctx.call("conformance", "leaf", args={"number": number}))
        for number in range(count)
    ]


@agent.skill
async def narrows(ctx: RunContext[APIKeyAuth], count: int, calls: int) -> int:
    budget = Budget(calls=calls)
    answer = await ctx.call("conformance", "fans", args={"count": count}, budget=budget)
    return int(answer.result)


@agent.skill
async def thinks(ctx: RunContext[APIKeyAuth], calls: int, tokens: int, below: bool = False) -> int:
    """Report model calls one by one, with time in between to be stopped."""
    if below:
        args = {"calls": calls, "tokens": tokens}
        return int((await ctx.call("conformance", "thinks", args=args)).result)
    for _ in range(calls):
        with ctx.model_call("m", provider="test") as call:
            call.record(usage={"input_tokens": tokens - 1, "output_tokens": 1})
        await asyncio.sleep(0.05)
    return calls


@agent.skill
async def thinks_then_calls(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """Spend in a child whatever it has for tokens, and try to call another."""
    spent = ctx.call("conformance", "thinks", args={"calls": 500, "tokens": 10})
    return [await code_of(spent), await code_of(ctx.call("conformance", "leaf"))]


@agent.skill
async def narrows_tokens(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """A child that overspends its own part leaves the caller the rest."""
    args = {"calls": 500, "tokens": 10}
    spent = ctx.call("conformance", "thinks", args=args, budget=Budget(tokens=20))
    return [await code_of(spent), await code_of(ctx.call("conformance", "leaf"))]


@agent.skill
async def waits(ctx: RunContext[APIKeyAuth], below: bool = False) -> None:
    if below:
        await ctx.call("conformance", "waits")
    await asyncio.sleep(FOREVER)


@agent.skill(timeout=0.2)
async def waits_briefly(ctx: RunContext[APIKeyAuth]) -> None:
    await asyncio.sleep(FOREVER)


@agent.skill
async def hurries(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """Return how calls end whose time is bounded in different ways."""
    short, long = Budget(seconds=0.2), Budget(seconds=FOREVER)
    return [
        await code_of(ctx.call("conformance", "waits", budget=short)),
        await code_of(ctx.call("conformance", "waits", budget=long, timeout=0.2)),
        await code_of(ctx.call("conformance", "waits_briefly", budget=long)),
        await code_of(ctx.call("conformance", "waits", args={"below": True}, budget=short)),
    ]


@agent.skill
async def circles(ctx: RunContext[APIKeyAuth], by_way_of: str = "circles") -> None:
    """Call itself with the same arguments, or another skill that calls back."""
    await ctx.call("conformance", by_way_of, args={"by_way_of": by_way_of})


@agent.skill
async def calls_back(ctx: RunContext[APIKeyAuth], by_way_of: str) -> None:
    await ctx.call("conformance", "circles", args={"by_way_of": by_way_of})


_SPENT = "budget_exhausted"

CASES: tuple[Case, ...] = (
    Case("fans", {"count": 3}, result=3, budget=Budget(calls=3), note="within"),
    Case("fans", {"count": 4}, code=_SPENT, budget=Budget(calls=3), note="beyond"),
    Case("fans", {"count": 2, "below": 1}, result=2, budget=Budget(calls=3), note="shared"),
    Case("fans", {"count": 3, "below": 1}, code=_SPENT, budget=Budget(calls=3), note="too many"),
    Case(
        "counts_what_is_left",
        {"count": 4},
        result=["none", "none", _SPENT, _SPENT],
        budget=Budget(calls=2),
    ),
    Case("narrows", {"count": 2, "calls": 2}, result=2, budget=Budget(calls=10)),
    Case("narrows", {"count": 3, "calls": 2}, code=_SPENT, budget=Budget(calls=10), note="beyond"),
    Case("narrows", {"count": 5, "calls": 9}, code=_SPENT, budget=Budget(calls=3), note="wider"),
    Case("thinks", {"calls": 3, "tokens": 10}, result=3, budget=Budget(tokens=31)),
    Case("thinks", {"calls": 2, "tokens": 10**6}, result=2, note="unbounded"),
    Case("thinks", {"calls": 500, "tokens": 10}, code=_SPENT, budget=Budget(tokens=30), note="all"),
    Case(
        "thinks",
        {"calls": 500, "tokens": 10, "below": True},
        code=_SPENT,
        budget=Budget(tokens=30),
        note="below",
    ),
    Case("thinks_then_calls", result=[_SPENT, _SPENT], budget=Budget(tokens=30)),
    Case("narrows_tokens", result=[_SPENT, "none"], budget=Budget(tokens=10_000)),
    Case("waits", code=_SPENT, budget=Budget(seconds=0.3)),
    Case("waits", {"below": True}, code=_SPENT, budget=Budget(seconds=0.3), note="below"),
    Case("waits_briefly", code="deadline_exceeded", budget=Budget(seconds=FOREVER)),
    Case("hurries", result=[_SPENT, "deadline_exceeded", "deadline_exceeded", _SPENT]),
    Case("circles", {"by_way_of": "circles"}, code="limit_exceeded", note="itself"),
    Case("circles", {"by_way_of": "calls_back"}, code="limit_exceeded", note="around"),
)
