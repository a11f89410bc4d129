"""The agents of the tests of trust: each skill says what it was given, so that a test can look."""

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

from opentelemetry import trace

from skillfleet import Agent, AgentEvent, JWTAuth, NoAuth, RunContext, SkillError
from skillfleet.contracts import Budget
from skillfleet.errors import InvalidArtifactError, UnknownAgentError

logger = logging.getLogger(__name__)


def note(journal: str) -> None:
    """Leave a trace that the handler was there."""
    Path(journal).touch()


def first_time(journal: str) -> bool:
    """True for the first caller with that journal."""
    path = Path(journal)
    known = path.exists()
    path.touch()
    return not known


gate = Agent("gate", description="Skills behind a signature", auth_model=JWTAuth)


@gate.skill
async def whoami(ctx: RunContext[JWTAuth], note: str = "") -> dict[str, Any]:
    return ctx.auth.model_dump(mode="json")


@gate.skill(scopes=("files:read",))
async def reads(ctx: RunContext[JWTAuth], journal: str = "") -> str:
    if journal:
        note(journal)
    return "read"


@gate.skill
async def marks(ctx: RunContext[JWTAuth], journal: str) -> str:
    note(journal)
    return "marked"


@gate.skill
async def asks_inside(ctx: RunContext[JWTAuth]) -> str:
    ctx.require_scopes(("files:write",))
    return "wrote"


@gate.skill
async def calls(ctx: RunContext[JWTAuth], skill: str, depth: int = 0) -> Any:
    """Call a skill of this agent, `depth` calls of itself further down."""
    args: dict[str, Any] = {"skill": skill, "depth": depth - 1} if depth else {}
    answer = await ctx.call("gate", "calls" if depth else skill, args=args)
    return answer.result


@gate.skill
async def passes_on(ctx: RunContext[JWTAuth], skill: str, args: dict[str, Any]) -> Any:
    return (await ctx.call("gate", skill, args=args)).result


@gate.skill
async def waits(ctx: RunContext[JWTAuth], seconds: float = 60) -> None:
    await ctx.emit_progress("waiting")
    await asyncio.sleep(seconds)


@gate.skill
async def approves(ctx: RunContext[JWTAuth]) -> bool:
    """Return whether a caller with a scope allows it."""
    return await ctx.ask("Go on?", schema=bool, scopes=("files:read",))


@gate.skill
async def rolls(ctx: RunContext[JWTAuth]) -> int:
    return await ctx.step("roll", random.getrandbits, 50)


@gate.skill
async def listens(ctx: RunContext[JWTAuth]) -> Any:
    return await ctx.receive()


@gate.skill(max_retries=1)
async def comes_back(ctx: RunContext[JWTAuth], how: str, seconds: float = 0) -> str:
    """End the first attempt by an error that is retried, or never; the second returns."""
    await ctx.emit_progress(f"attempt {ctx.attempt}")
    if ctx.attempt > 1:
        return ctx.auth.sub
    if how == "retry":
        raise SkillError("later", retryable=True, retry_after=seconds)
    await asyncio.sleep(60)
    return "never"


@gate.skill
async def fails_once(ctx: RunContext[JWTAuth], journal: str) -> dict[str, Any]:
    if first_time(journal):
        raise SkillError("the first time")
    return ctx.auth.model_dump(mode="json")


open_door = Agent("open", description="Skills that do not care who calls", auth_model=NoAuth)


@open_door.skill
async def relays(ctx: RunContext[NoAuth], skill: str) -> Any:
    return (await ctx.call("gate", skill)).result


keeper = Agent("keeper", description="Skills with secrets, some of which talk")
_cached: dict[str, str] = {}


@keeper.skill(secrets=("api-key",))
async def uses(ctx: RunContext) -> int:
    return len(ctx.secret("api-key"))


@keeper.skill(secrets=("api-key",))
async def leaks(ctx: RunContext, how: str) -> Any:  # noqa: C901 - a list of ways
    """Write the secret in one of several ways."""
    value = _cached["key"] = ctx.secret("api-key")
    logger.warning("the key is %s", value)
    match how:
        case "progress":
            await ctx.emit_progress(f"using {value}")
        case "event":
            await ctx.emit_event(AgentEvent("used", {value: [value, {"deep": value}]}))
        case "text":
            for letter in f"<{value}>":
                await ctx.emit_text_delta(letter)
        case "slow text":
            for piece in (f"<{value[:5]}", f"{value[5:]}>"):
                await ctx.emit_text_delta(piece)
                await asyncio.sleep(0.6)
        case "error":
            raise ValueError(f"bad key {value}")
        case "skill error":
            raise SkillError(f"bad key {value}")
        case "code":
            raise SkillError("bad key", code=value)
        case "chained error":
            raise RuntimeError("bad") from ValueError(value)
        case "span":
            with trace.get_tracer("test").start_as_current_span("said", attributes={"k": value}):
                pass
        case _:
            return {"key": value, value: [value]}
    return None


@keeper.skill(secrets=("api-key",))
async def leaks_from_memory(ctx: RunContext) -> str:
    """Write a secret that an earlier run has stored."""
    return _cached["key"]


@keeper.skill(secrets=("missing-secret", "api-key"))
async def never(ctx: RunContext) -> None:
    return None


@keeper.skill(secrets=("pin",))
async def too_short(ctx: RunContext) -> None:
    return None


@keeper.skill(secrets=("api-key",))
async def names_artifact(ctx: RunContext, name: str, mime_type: str) -> str:
    key = ctx.secret("api-key")
    try:
        await ctx.write_artifact(name.format(key), b"", mime_type.format(key))
    except InvalidArtifactError as error:
        return str(error)
    return "written"


@keeper.skill
async def undeclared(ctx: RunContext) -> str:
    return ctx.secret("api-key")


@keeper.skill
async def innocent(ctx: RunContext) -> str:
    return "fine"


far = Agent("far", description="On a queue of its own", queue="remote")


@far.skill
async def deepens(ctx: RunContext, levels: int, width: int = 1, number: int = 0) -> int:
    """Call so many of its like one level down, on the two queues in turn, and wait for ever."""
    await ctx.emit_progress("here")
    if levels == 0:
        await asyncio.sleep(600)
    target = "far" if levels % 2 else "tree"
    args = [{"levels": levels - 1, "width": width, "number": n} for n in range(width)]
    await asyncio.gather(*(ctx.call(target, "deepens", args=each) for each in args))
    return levels


tree = Agent("tree", description="Skills that call each other, within limits")


@tree.skill(name="deepens")
async def deepens_here(ctx: RunContext, levels: int, width: int = 1, number: int = 0) -> int:
    return await deepens(ctx, levels=levels, width=width, number=number)


@tree.skill
async def looks(ctx: RunContext, name: str) -> dict[str, Any]:
    """The result of discovery for an agent: the versions it finds, and what getting it gives."""
    found = await ctx.discover.find_agents(skill="deepens", limit=100)
    try:
        got = (await ctx.discover.get_agent(name)).card.version
    except UnknownAgentError:
        got = ""
    return {"found": [each.card.version for each in found if each.name == name], "got": got}


@tree.skill
async def fans(ctx: RunContext, count: int) -> int:
    """Call so many leaves one by one; how many came back before an error."""
    done = 0
    for number in range(count):
        await ctx.call("tree", "leaf", args={"number": number})
        done += 1
    return done


@tree.skill
async def fans_below(ctx: RunContext, count: int) -> int:
    return int((await ctx.call("tree", "fans", args={"count": count})).result)


@tree.skill
async def leaf(ctx: RunContext, number: int = 0, seconds: float = 0) -> int:
    await asyncio.sleep(seconds)
    return number


@tree.skill
async def circles(ctx: RunContext, by_way_of: str = "") -> Any:
    """Call itself with the same arguments, or another skill that calls back."""
    return (await ctx.call("tree", by_way_of or "circles", args={})).result


@tree.skill
async def calls_back(ctx: RunContext) -> Any:
    return (await ctx.call("tree", "circles", args={"by_way_of": "calls_back"})).result


@tree.skill
async def thinks(ctx: RunContext, calls: int, tokens: int) -> int:
    """Report model calls, one by one, with time in between to be stopped."""
    for _ in range(calls):
        with ctx.model_call("m", provider="test") as call:
            call.record(usage={"input_tokens": tokens - 1, "output_tokens": 1})
        await asyncio.sleep(0.05)
    return calls


@tree.skill
async def thinks_below(ctx: RunContext, calls: int, tokens: int) -> Any:
    return (await ctx.call("tree", "thinks", args={"calls": calls, "tokens": tokens})).result


@tree.skill
async def waits_below(ctx: RunContext, seconds: float) -> Any:
    return (await ctx.call("tree", "leaf", args={"seconds": seconds})).result


caller = Agent("caller", description="Skills that call remote agents")


@caller.skill
async def asks(
    ctx: RunContext,
    target: str,
    skill: str,
    args: dict[str, Any] | None = None,
    timeout: float | None = None,
    key: str | None = None,
    budget: dict[str, float] | None = None,
) -> Any:
    await ctx.emit_progress("asking")
    bound = Budget.model_validate(budget or {})
    answer = await ctx.call(target, skill, args=args, timeout=timeout, key=key, budget=bound)
    return {
        "result": answer.result,
        "events": [[event.kind, event.payload] for event in answer.events],
        "artifacts": [[ref.name, ref.uri, ref.mime_type] for ref in answer.artifacts],
    }


@caller.skill
async def asks_often(ctx: RunContext, target: str, count: int) -> int:
    """Ask so often, one by one."""
    for number in range(count):
        await ctx.call(target, "add", args={"x": number, "y": 0})
    return count


@caller.skill
async def hands_down(ctx: RunContext, target: str, count: int, calls: int) -> Any:
    """Have a called run ask, within a budget of its own."""
    args, budget = {"target": target, "count": count}, Budget(calls=calls)
    return (await ctx.call("caller", "asks_often", args=args, budget=budget)).result


@tree.skill
async def narrows(ctx: RunContext, count: int, calls: int) -> int:
    """Call `fans` with a budget of its own."""
    budget = Budget(calls=calls)
    return int((await ctx.call("tree", "fans", args={"count": count}, budget=budget)).result)


@tree.skill
async def hurries(ctx: RunContext, seconds: float) -> Any:
    budget = Budget(seconds=0.3)
    return (await ctx.call("tree", "leaf", args={"seconds": seconds}, budget=budget)).result
