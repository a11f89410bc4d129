"""Agents that hand grants to each other, as a workspace client would."""

from typing import Any

from skillfleet import Agent, JWTAuth, RunContext
from skillfleet.contracts import WorkspaceMode
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.grants import Delegation, RunGrants
from skillfleet.testing.conformance.object_graph import reachable
from skillfleet_worker.attempts import context

granting = Agent("granting", auth_model=JWTAuth)
granted = Agent("granted", auth_model=JWTAuth)


def grants_of(ctx: RunContext[JWTAuth]) -> RunGrants:
    states: HiddenState[Any] = context._states
    grants: RunGrants = states.of(ctx).scope.grants
    return grants


@granting.skill
async def delegates(ctx: RunContext[JWTAuth], audience: str = "granted", seconds: int = 60) -> str:
    grants = grants_of(ctx)
    own = grants.own("work", WorkspaceMode.READ_ONLY)
    return await grants.delegate(own, Delegation(audience, ("src/**",), ttl_seconds=seconds))


@granting.skill
async def hands_over(ctx: RunContext[JWTAuth], skill: str = "installs") -> dict[str, Any]:
    token = await delegates(ctx)
    called = await ctx.call("granted", skill, grant=token)
    return {"seen": called.result, "grant": called.grant_id, "shown": token in repr(called)}


@granting.skill
async def passes(ctx: RunContext[JWTAuth], token: str) -> Any:
    return (await ctx.call("granted", "installs", grant=token)).result


@granting.skill
async def narrows(ctx: RunContext[JWTAuth], token: str) -> Any:
    grants = grants_of(ctx)
    held = await grants.install(token)
    return await passes(ctx, await grants.delegate(held, Delegation("granted")))


@granting.skill
async def calls_twice(ctx: RunContext[JWTAuth]) -> Any:
    token = await delegates(ctx)
    for key in ("first", "second"):
        await ctx.call("granted", "installs", grant=token, key=key)


@granting.skill
async def revokes(ctx: RunContext[JWTAuth]) -> Any:
    token = await delegates(ctx)
    await grants_of(ctx).revoke_all()
    return (await ctx.call("granted", "installs", grant=token)).result


@granting.skill
async def waits_before_it_hands_over(ctx: RunContext[JWTAuth]) -> Any:
    token = await delegates(ctx)
    await ctx.ask("Go on?", schema=bool)
    return (await ctx.call("granted", "installs", grant=token)).result


@granted.skill
async def installs(ctx: RunContext[JWTAuth]) -> dict[str, bool]:
    grants = grants_of(ctx)
    assert grants.handed_over is not None
    grant = await grants.install(grants.handed_over)
    # A further attempt of the run installs it again.
    assert await grants.install(grants.handed_over) == grant
    return {"src/a": grant.allows("src/a"), "docs/a": grant.allows("docs/a")}


@granted.skill
async def delegates_on(ctx: RunContext[JWTAuth]) -> Any:
    grants = grants_of(ctx)
    assert grants.handed_over is not None
    held = await grants.install(grants.handed_over)
    token = await grants.delegate(held, Delegation("granted", ("**/*.py", "docs/**")))
    return (await ctx.call("granted", "installs", grant=token)).result


@granted.skill
async def reaches(ctx: RunContext[JWTAuth]) -> list[str]:
    """Return what a client that holds the grants of its run lets a skill reach."""
    found = {type(value).__module__.partition(".")[0] for _, value in reachable(grants_of(ctx))}
    return sorted(found & {"skillfleet_ledger", "skillfleet_auth", "cryptography"})
