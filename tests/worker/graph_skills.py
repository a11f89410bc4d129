"""A skill that reports what it can reach from its context."""

import asyncio
from typing import Any

from skillfleet import Agent, AgentEvent, RunContext
from skillfleet.hidden_state import HiddenState
from skillfleet.testing.conformance.object_graph import reachable

graph = Agent("graph")

FORBIDDEN_PACKAGES = ("skillfleet_ledger", "skillfleet_producer", "redis", "celery", "kombu")
FORBIDDEN_NAMES = (
    "Attempt",
    "ContextState",
    "ScopeState",
    "EventBuffer",
    "Delivery",
    "Capabilities",
)


class Holder:
    """Stands for a client that keeps too much; the walk must find it."""

    def __init__(self, secret: Any) -> None:
        self._hidden = [{"deep": lambda: secret}]


def forbidden(start: Any) -> list[str]:
    return sorted(
        f"{path}: {type(found).__module__}.{type(found).__name__}"
        for path, found in reachable(start)
        if type(found).__module__.partition(".")[0] in FORBIDDEN_PACKAGES
        or type(found).__name__ in FORBIDDEN_NAMES
    )


@graph.skill(secrets=("graph-key",))
async def walks(ctx: RunContext) -> dict[str, Any]:
    ctx.secret("graph-key")
    await ctx.emit_event(AgentEvent("tick"))
    await ctx.write_artifact("a.txt", b"a", "text/plain")
    await ctx.call("graph", "leaf")
    await ctx.discover.find_agents()
    with ctx.model_call("m", provider="p") as model_call:
        model_call.record(usage={"input_tokens": 1, "output_tokens": 1})
    with ctx.tool_call("t") as tool_call:
        pass
    methods = {
        name: getattr(ctx, name)
        for name in dir(type(ctx))
        if callable(getattr(type(ctx), name, None)) and not name.startswith("__")
    }
    handed_out = [ctx, ctx.discover, ctx._a2a_client(), model_call, tool_call, methods]
    return {
        "forbidden": forbidden(handed_out),
        "attributes": sorted(name for name in vars(ctx)),
        "public": sorted(name for name in dir(ctx) if not name.startswith("_")),
        "interface": sorted(
            {name for name in dir(RunContext) if not name.startswith("_")}
            | {name for name in RunContext.__annotations__ if not name.startswith("_")}
        ),
        "seen": sum(1 for _ in reachable(handed_out)),
    }


@graph.skill
async def leaf(ctx: RunContext) -> None:
    await asyncio.sleep(0)


@graph.skill
async def finds_a_leak(ctx: RunContext) -> list[str]:
    """Return what the walk finds of an object that a careless client would hold."""
    from skillfleet_worker.attempts import context

    states: HiddenState[Any] = context._states
    return forbidden(Holder(states.of(ctx)))
