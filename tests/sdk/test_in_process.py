"""Agents that call and find each other in one process."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from skillfleet import (
    Agent,
    APIKeyAuth,
    JWTAuth,
    LocalRunContext,
    NoAuth,
    RunContext,
    SkillError,
)
from skillfleet.errors import (
    ArgumentsTooLargeError,
    DeclarationError,
    GrantInvalid,
    IdempotencyConflictError,
    InvalidArgumentsError,
    LimitExceededError,
    RunCancelled,
    RunFailed,
    RunTimedOut,
    UnknownAgentError,
    UnknownSkillError,
)
from skillfleet.redaction import HIDDEN
from skillfleet.testing.in_process import InProcessA2AClient, LocalDiscovery
from tests.support.waiting import wait_until_async


class Generous(BaseModel):
    """An auth model that would give scopes to everyone."""

    scopes: tuple[str, ...] = ("read", "admin")


tools = Agent("tools", tags=("hammer",), description="Does things")
club = Agent("club", auth_model=JWTAuth, queue="quiet")
open_house = Agent("open-house", auth_model=Generous)
seen: dict[str, RunContext[Any]] = {}


@tools.skill
async def shout(ctx: RunContext, text: str) -> str:
    """Make it LOUD."""
    await ctx.emit_text_delta(text.upper())
    return text.upper()


@tools.skill
async def dive(ctx: RunContext, levels: int) -> int:
    if levels == 0:
        return 0
    deeper = await ctx.call("tools", "dive", args={"levels": levels - 1})
    return int(deeper.result) + 1


@tools.skill
async def observed(ctx: RunContext, name: str) -> None:
    seen[name] = ctx
    await asyncio.Event().wait()


@tools.skill
async def nested(ctx: RunContext, name: str) -> None:
    seen[name] = ctx
    await ctx.call("tools", "observed", args={"name": f"{name}.leaf"})


@tools.skill(secrets=("declared",))
async def reports(ctx: RunContext, name: str) -> str:
    return ctx.secret(name)


@tools.skill(max_retries=2)
async def flaky(ctx: RunContext, succeeds_at: int) -> int:
    await ctx.emit_progress(f"attempt {ctx.attempt}")
    if ctx.attempt < succeeds_at:
        raise SkillError("not yet", code="not_yet", retryable=True)
    return ctx.attempt


@tools.skill(max_retries=3, retry_on=(Exception,))
async def slow(ctx: RunContext) -> None:
    seen[f"attempt {ctx.attempt}"] = ctx
    await asyncio.Event().wait()


@tools.skill(max_retries=1)
async def patient(ctx: RunContext) -> None:
    seen["patient"] = ctx
    raise SkillError("in an hour", retryable=True, retry_after=3600)


@tools.skill
async def leaves_work_behind(ctx: RunContext) -> str:
    task = asyncio.create_task(ctx.call("tools", "observed", args={"name": "orphan"}))
    await wait_until_async(lambda: was_seen("orphan"))
    seen["task"] = task  # type: ignore[assignment]
    return "done"


@club.skill
async def greets(ctx: RunContext[JWTAuth]) -> str:
    return ctx.auth.sub


@open_house.skill
async def scopes(ctx: RunContext[Generous]) -> list[str]:
    return list(ctx.auth.scopes)


async def was_seen(name: str) -> bool:
    return name in seen


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    monkeypatch.setattr("random.random", lambda: 0.001)  # a backoff of a millisecond


def caller(auth: BaseModel | None = None, **options: Any) -> LocalRunContext[Any]:
    client = InProcessA2AClient([tools, club, open_house], grace=0.05, **options)
    return LocalRunContext(auth=auth or NoAuth(), a2a=client)


async def test_a_client_calls_without_a_context_too() -> None:
    answer = await InProcessA2AClient([tools]).call("tools", "shout", args={"text": "hey"})
    assert answer.result == "HEY"
    assert [event.payload for event in answer.events] == [{"text": "HEY"}]


async def test_unknown_agents_and_skills_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownAgentError, match="known are: club, open-house, tools"):
        await caller().call("unknown", "shout")
    with pytest.raises(UnknownSkillError, match="'tools' has no skill 'fly'; it has: dive, flaky"):
        await caller().call("tools", "fly")


async def test_bad_arguments_are_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidArgumentsError, match='"text" is a required property'):
        await caller().call("tools", "shout")
    with pytest.raises(InvalidArgumentsError, match=r"'text' of tools\.shout is not JSON"):
        await caller().call("tools", "shout", args={"text": object()})
    with pytest.raises(ArgumentsTooLargeError, match="artifact"):
        await caller().call("tools", "shout", args={"text": "x" * 2**18})


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_timeout_must_be_above_zero(timeout: float) -> None:
    with pytest.raises(InvalidArgumentsError, match="timeout must be more than 0"):
        await caller().call("tools", "shout", args={"text": ""}, timeout=timeout)


async def test_a_grant_that_no_one_made_is_refused_not_ignored() -> None:
    with pytest.raises(GrantInvalid, match="not one of this process"):
        await caller().call("tools", "shout", args={"text": ""}, grant="token")


async def test_a_callee_gets_the_callers_identity() -> None:
    ctx = caller(JWTAuth(sub="ada", scopes=("read",)))
    assert (await ctx.call("club", "greets")).result == "ada"


async def test_a_caller_without_the_wanted_claims_is_refused() -> None:
    with pytest.raises(RunFailed, match="do not fit JWTAuth: sub") as caught:
        await caller(APIKeyAuth(api_key_id="k")).call("club", "greets")
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize(
    ("auth", "expected"),
    [(NoAuth(), []), (APIKeyAuth(api_key_id="k", scopes=("read", "write")), ["read", "write"])],
)
async def test_a_callee_never_gets_more_scopes_than_its_caller(
    auth: BaseModel, expected: list[str]
) -> None:
    assert (await caller(auth).call("open-house", "scopes")).result == expected


async def test_a_callee_reads_the_secrets_that_it_declared() -> None:
    ctx = caller(secrets={"declared": "one-1234", "undeclared": "two-1234"})
    assert (await ctx.call("tools", "reports", args={"name": "declared"})).result == HIDDEN
    with pytest.raises(RunFailed) as caught:
        await ctx.call("tools", "reports", args={"name": "undeclared"})
    assert caught.value.code == "unknown_secret"


async def test_calls_nest_up_to_the_limit() -> None:
    assert (await caller(max_depth=4).call("tools", "dive", args={"levels": 2})).result == 2
    with pytest.raises(RunFailed, match="nested 4 deep") as caught:
        await caller(max_depth=4).call("tools", "dive", args={"levels": 3})
    assert caught.value.code == "limit_exceeded"


async def test_a_tree_holds_only_so_many_runs() -> None:
    ctx = caller(max_runs=4)
    for _ in range(3):
        await ctx.call("tools", "shout", args={"text": "a"})
    with pytest.raises(LimitExceededError, match="already holds 4 runs"):
        await ctx.call("tools", "shout", args={"text": "a"})


async def test_a_call_is_stopped_by_its_timeout() -> None:
    with pytest.raises(RunTimedOut) as caught:
        await caller().call("tools", "observed", args={"name": "a"}, timeout=0.1)
    assert caught.value.run_id == seen["a"].task_id


async def test_a_child_ends_no_later_than_its_parent() -> None:
    ctx = caller()
    ctx.deadline = datetime.now(UTC) + timedelta(seconds=0.3)
    with pytest.raises(RunTimedOut):
        await ctx.call("tools", "nested", args={"name": "a"}, timeout=60)
    assert seen["a.leaf"].deadline == seen["a"].deadline == ctx.deadline


async def test_cancelling_the_caller_cancels_all_its_descendants() -> None:
    ctx = caller()
    call = asyncio.create_task(ctx.call("tools", "nested", args={"name": "a"}))
    await wait_until_async(lambda: was_seen("a.leaf"))
    ctx.cancel("no longer needed")
    with pytest.raises((RunCancelled, RunFailed)) as caught:
        await call
    assert caught.value.code == "cancelled_by_caller"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_call_of_a_cancelled_caller_never_starts() -> None:
    ctx = caller()
    ctx.cancel()
    with pytest.raises(RunCancelled):
        await ctx.call("tools", "observed", args={"name": "a"})
    assert seen == {}


async def test_cancelling_the_awaiting_task_stops_all_descendants() -> None:
    call = asyncio.create_task(caller().call("tools", "nested", args={"name": "a"}))
    await wait_until_async(lambda: was_seen("a.leaf"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_drain_reaches_the_called_runs() -> None:
    ctx = caller()
    call = asyncio.create_task(ctx.call("tools", "observed", args={"name": "a"}))
    await wait_until_async(lambda: was_seen("a"))
    ctx.shut_down()
    assert seen["a"].shutting_down
    ctx.cancel()
    with pytest.raises(RunCancelled):
        await call


async def test_a_run_that_ends_takes_the_calls_it_left_behind_with_it() -> None:
    assert (await caller().call("tools", "leaves_work_behind")).result == "done"
    orphan: Any = seen["task"]
    with pytest.raises(RunCancelled):
        await orphan


async def test_failed_attempts_are_retried_in_one_run() -> None:
    answer = await caller().call("tools", "flaky", args={"succeeds_at": 3})
    assert answer.result == 3
    assert [event.payload["message"] for event in answer.events] == [
        "attempt 1",
        "attempt 2",
        "attempt 3",
    ]


async def test_a_run_fails_with_its_last_error_when_its_retries_are_used_up() -> None:
    with pytest.raises(RunFailed, match="not yet") as caught:
        await caller().call("tools", "flaky", args={"succeeds_at": 4})
    assert caught.value.code == "not_yet"


async def test_a_run_whose_deadline_passed_is_not_retried() -> None:
    with pytest.raises(RunTimedOut):
        await caller().call("tools", "slow", timeout=0.1)
    assert list(seen) == ["attempt 1"]
    assert seen["attempt 1"].attempt == 1


async def test_waiting_for_a_retry_ends_with_the_deadline() -> None:
    with pytest.raises(RunTimedOut):
        await caller().call("tools", "patient", timeout=0.1)


async def test_waiting_for_a_retry_ends_with_a_cancellation() -> None:
    ctx = caller()
    call = asyncio.create_task(ctx.call("tools", "patient"))
    await wait_until_async(lambda: was_seen("patient"))
    ctx.cancel()
    with pytest.raises(RunCancelled):
        await call


async def test_calls_with_one_key_are_one_run_even_at_once() -> None:
    ctx = caller()
    args = {"succeeds_at": 1}
    answers = await asyncio.gather(
        *(ctx.call("tools", "flaky", args=args, key="k") for _ in range(3))
    )
    assert answers[0] is answers[1] is answers[2]
    assert len(answers[0].events) == 1


async def test_a_key_belongs_to_one_call_of_one_run() -> None:
    client = InProcessA2AClient([tools])
    ctx: LocalRunContext[Any] = LocalRunContext(auth=NoAuth(), task_id="one", a2a=client)
    await ctx.call("tools", "shout", args={"text": "a"}, key="k")
    with pytest.raises(IdempotencyConflictError, match="'k'"):
        await ctx.call("tools", "shout", args={"text": "b"}, key="k")
    other: LocalRunContext[Any] = LocalRunContext(auth=NoAuth(), task_id="other", a2a=client)
    assert (await other.call("tools", "shout", args={"text": "b"}, key="k")).result == "B"


async def test_a_failed_call_is_not_remembered_under_its_key() -> None:
    ctx = caller()
    with pytest.raises(RunTimedOut):
        await ctx.call("tools", "observed", args={"name": "a"}, key="k", timeout=0.1)
    seen.clear()
    with pytest.raises(RunTimedOut):
        await ctx.call("tools", "observed", args={"name": "a"}, key="k", timeout=0.1)
    assert "a" in seen


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(DeclarationError, match="two agents called 'tools'"):
        InProcessA2AClient([tools, Agent("tools")])


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({}, ["club", "open-house", "tools"]),
        ({"limit": 2}, ["club", "open-house"]),
        ({"tags": ["HAMMER", "saw"]}, ["tools"]),
        ({"tags": ["saw"]}, []),
        ({"skill": "greets"}, ["club"]),
        ({"skill": "greet"}, []),
        ({"capability": "make it loud"}, ["tools"]),
        ({"capability": "does THINGS"}, ["tools"]),
        ({"tags": ["hammer"], "skill": "greets"}, []),
    ],
    ids=str,
)
async def test_agents_are_found_by_every_given_criterion(
    criteria: dict[str, Any], expected: list[str]
) -> None:
    found = await LocalDiscovery([tools, open_house, club]).find_agents(**criteria)
    assert [agent.name for agent in found] == expected


async def test_tags_that_are_one_text_are_refused() -> None:
    with pytest.raises(InvalidArgumentsError, match=r"\['hammer'\], not 'hammer'"):
        await LocalDiscovery([tools]).find_agents(tags="hammer")


async def test_an_agent_is_got_with_its_card() -> None:
    discovery = LocalDiscovery([tools, club])
    assert (await discovery.get_agent("club")).card == club.card("quiet")
    with pytest.raises(UnknownAgentError, match="known are: club, tools"):
        await discovery.get_agent("unknown")
