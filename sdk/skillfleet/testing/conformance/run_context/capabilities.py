"""Conformance of contexts: secrets, scopes and capabilities."""

import hashlib

from skillfleet import APIKeyAuth, RunContext
from skillfleet.testing.conformance.run_context.table import SECRETS, Case, agent, code_of


@agent.skill(secrets=("conformance-token",))
async def secret(ctx: RunContext[APIKeyAuth]) -> str:
    return hashlib.sha256(ctx.secret("conformance-token").encode()).hexdigest()


@agent.skill(secrets=("conformance-token",))
async def hands_secret_down(ctx: RunContext[APIKeyAuth]) -> list[str]:
    value = ctx.secret("conformance-token")
    hidden_in = ({"text": value}, {"text": f"<{value}>"}, {value: "x"}, {"text": {"a": [value]}})
    return [await code_of(ctx.call("conformance", "echo", args=args)) for args in hidden_in]


@agent.skill
async def unknown_secret(ctx: RunContext[APIKeyAuth]) -> None:
    ctx.secret("another-token")


@agent.skill(scopes=("notes:read",))
async def scopes(ctx: RunContext[APIKeyAuth]) -> list[str]:
    ctx.require_scopes([])
    ctx.require_scopes(["notes:read", "notes:write"])
    ctx.require_scopes(["notes:read", "zoo:feed", "admin"])
    return ["never reached"]


@agent.skill(scopes=("admin",))
async def guarded(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.emit_progress("the handler of a guarded skill was started")


@agent.skill
async def no_workspace(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.workspace.search(query="anything")


@agent.skill
async def no_sandbox(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.sandbox.run_shell("true")


CASES: tuple[Case, ...] = (
    Case(
        "secret",
        result=hashlib.sha256(SECRETS["conformance-token"].encode()).hexdigest(),
    ),
    Case("hands_secret_down", result=["invalid_arguments"] * 4),
    Case("unknown_secret", code="unknown_secret"),
    Case("scopes", code="missing_scopes"),
    Case("guarded", code="missing_scopes"),
    Case("no_workspace", code="capability_unavailable"),
    Case("no_sandbox", code="sandbox_unavailable"),
)
