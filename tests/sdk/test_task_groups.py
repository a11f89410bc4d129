"""An error inside a TaskGroup is judged as itself."""

import asyncio

import pytest

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext, SkillError
from skillfleet.errors import RunFailed
from skillfleet.testing.runner import run_to_end

agent = Agent("grouped", description="Skills with task groups")


@agent.skill(max_retries=1)
async def fails(ctx: RunContext, retryable: bool) -> int:
    async with asyncio.TaskGroup() as group:
        group.create_task(one(ctx, retryable=retryable))
    return ctx.attempt


async def one(ctx: RunContext, *, retryable: bool) -> None:
    if ctx.attempt == 1:
        raise SkillError("gone", code="gone", retryable=retryable, retry_after=0)


async def test_its_code_and_message_reach_the_caller() -> None:
    with pytest.raises(RunFailed, match=r"^gone$") as caught:
        await run_to_end(fails, LocalRunContext(auth=NoAuth()), {"retryable": False})
    assert caught.value.code == "gone"


async def test_its_retry_policy_counts() -> None:
    assert await run_to_end(fails, LocalRunContext(auth=NoAuth()), {"retryable": True}) == 2
