"""LocalRunContext: the conformance table, and what tests use it for."""

import asyncio
import base64
import copy
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from skillfleet import (
    Agent,
    AgentEvent,
    CancelledByCaller,
    LocalRunContext,
    NoAuth,
    RunContext,
    WaitRejected,
    joined_text,
)
from skillfleet.auth import auth_from_claims
from skillfleet.contracts import RESERVED_KINDS, Limits
from skillfleet.errors import (
    ArtifactTooLargeError,
    CapabilityUnavailableError,
    EventTooLargeError,
    InvalidArgumentsError,
    InvalidArtifactError,
    InvalidResultError,
    RunError,
    RunTimedOut,
    SandboxUnavailable,
    SkillError,
    UnknownSecretError,
    WaitConflictError,
)
from skillfleet.redaction import HIDDEN
from skillfleet.testing.conformance.run_context import (
    AUTH,
    CALLED_BY_OTHERS,
    CASES,
    SECRETS,
    Case,
    Observed,
    Reject,
    agent,
    assert_conforms,
)
from skillfleet.testing.in_process import InProcessA2AClient, LocalDiscovery
from skillfleet.testing.local_session import LocalSession
from skillfleet.testing.runner import run_skill, run_to_end
from tests.support.waiting import wait_until_async

tools = Agent("tools")


@tools.skill
async def waits(ctx: RunContext) -> None:
    await ctx.emit_progress("waiting")
    await asyncio.Event().wait()


@tools.skill(timeout=0.05)
async def overdue(ctx: RunContext) -> None:
    await asyncio.Event().wait()


@tools.skill
async def finishes_on_shutdown(ctx: RunContext) -> str:
    while not ctx.shutting_down:
        await ctx.check_cancelled()
    return "finished early"


@tools.skill
async def ignores_cancellation(ctx: RunContext) -> None:
    await ctx.emit_progress("waiting")
    while True:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            if ctx.attempt == 2:  # how the test lets it go
                raise


@tools.skill
async def cancels_itself(ctx: RunContext) -> None:
    raise asyncio.CancelledError


def local() -> LocalRunContext[NoAuth]:
    return LocalRunContext(auth=NoAuth())


def in_turn(answers: tuple[Any, ...]) -> Any:
    left = [
        WaitRejected(answer.reason) if isinstance(answer, Reject) else answer for answer in answers
    ]
    return lambda wait: left.pop(0)


async def run_case(case: Case) -> Observed:
    ctx = LocalRunContext(
        auth=auth_from_claims(agent.auth_model, AUTH),
        task_id=uuid.uuid4().hex,
        secrets=SECRETS,
        a2a=InProcessA2AClient([agent], secrets=SECRETS, grace=0.05),
        discover=LocalDiscovery([agent]),
        budget=case.budget,
        session=LocalSession(case.session) if case.session is not None else None,
        answers={name: in_turn(answers) for name, answers in case.answers.items()},
        inbox=case.inbox,
    )
    run = asyncio.create_task(run_to_end(agent.skills[case.skill], ctx, case.args, grace=0.05))
    if case.cancel_on is not None:
        await wait_until_async(lambda: saw(ctx, case.cancel_on))
        ctx.cancel()
    seen = Observed()
    try:
        seen.result = await run
    except RunError as error:
        seen.code, seen.message = error.code, error.message
    seen.events = [
        (event.kind, event.payload) for event in ctx.events if event.kind not in RESERVED_KINDS
    ]
    seen.text = joined_text(ctx.events)
    seen.steps = [(step.kind, step.name, step.outcome) for step in ctx.journal.steps()]
    seen.artifacts = {
        name: (data, ctx.artifact_refs[name].mime_type) for name, data in ctx.artifacts.items()
    }
    return seen


async def saw(ctx: LocalRunContext[Any], kind: str | None) -> bool:
    return any(event.kind == kind for event in ctx.events)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_the_local_context_conforms(case: Case) -> None:
    assert_conforms(case, await run_case(case))


def test_the_table_exercises_every_skill_of_the_conformance_agent() -> None:
    assert {case.skill for case in CASES} | CALLED_BY_OTHERS == set(agent.skills)


async def test_a_skill_is_called_like_the_function_it_is() -> None:
    ctx = local()
    skill: Any = agent.skills["burst"]
    assert await skill(ctx, count=2) == 2
    assert ctx.events == [AgentEvent("tick", {"n": 0}), AgentEvent("tick", {"n": 1})]


async def test_a_context_can_be_made_and_cancelled_outside_of_an_event_loop() -> None:
    ctx = await asyncio.to_thread(local)
    await ctx.check_cancelled()
    ctx.cancel("enough")
    with pytest.raises(CancelledByCaller, match="enough"):
        await ctx.check_cancelled()


async def test_the_first_reason_of_a_cancellation_stays() -> None:
    ctx = local()
    ctx.cancel("first")
    ctx.cancel("second")
    with pytest.raises(CancelledByCaller, match="first"):
        await ctx.check_cancelled()


async def test_check_cancelled_gives_way_to_other_tasks() -> None:
    ctx = local()
    asyncio.get_running_loop().call_soon(ctx.cancel)
    with pytest.raises(CancelledByCaller):
        await ctx.check_cancelled()


async def test_a_cancelled_skill_that_only_waits_is_stopped_after_its_grace() -> None:
    ctx = local()
    run = asyncio.create_task(run_skill(waits, ctx, grace=0.01))
    await wait_until_async(lambda: saw(ctx, "progress"))
    ctx.cancel()
    with pytest.raises(CancelledByCaller):
        await run


async def test_a_run_that_is_cancelled_before_it_starts_never_starts() -> None:
    ctx = local()
    ctx.cancel()
    with pytest.raises(CancelledByCaller):
        await run_skill(agent.skills["burst"], ctx, {"count": 1})
    assert ctx.events == []


async def test_a_run_whose_deadline_passed_before_it_starts_never_starts() -> None:
    ctx = local()
    ctx.deadline = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(RunTimedOut):
        await run_skill(agent.skills["burst"], ctx, {"count": 1})
    assert ctx.events == []


async def test_a_timeout_shortens_the_deadline_and_stops_the_skill() -> None:
    ctx = local()
    with pytest.raises(RunTimedOut) as caught:
        await run_skill(overdue, ctx)
    assert ctx.deadline is not None
    assert caught.value.run_id == ctx.task_id


async def test_a_timeout_never_lengthens_the_deadline() -> None:
    ctx = local()
    ctx.deadline = early = datetime.now(UTC) + timedelta(seconds=0.01)
    with pytest.raises(RunTimedOut):
        await run_skill(overdue, ctx)
    assert ctx.deadline == early


async def test_a_skill_that_suppresses_its_cancellation_is_left_behind() -> None:
    ctx = local()
    run = asyncio.create_task(run_skill(ignores_cancellation, ctx, grace=0.01))
    await wait_until_async(lambda: saw(ctx, "progress"))
    ctx.cancel()
    with pytest.raises(CancelledByCaller):
        await run
    ctx.attempt = 2
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def test_cancelling_the_awaiting_task_cancels_the_skill() -> None:
    ctx = local()
    run = asyncio.create_task(run_skill(waits, ctx))
    await wait_until_async(lambda: saw(ctx, "progress"))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_skill_that_cancels_itself_fails_and_does_not_cancel_its_caller() -> None:
    with pytest.raises(SkillError, match="without being cancelled"):
        await run_skill(cancels_itself, local())


async def test_a_skill_sees_that_its_worker_shuts_down() -> None:
    ctx = local()
    run = asyncio.create_task(run_skill(finishes_on_shutdown, ctx))
    await asyncio.sleep(0)
    ctx.shut_down()
    assert await run == "finished early"


async def test_limits_are_those_of_the_context() -> None:
    ctx = local()
    ctx.limits = Limits(event_bytes=20, artifact_bytes=10)
    with pytest.raises(EventTooLargeError, match="write the data as an artifact"):
        await ctx.emit_text_delta("more than twenty bytes")
    with pytest.raises(ArtifactTooLargeError, match="'a' exceeds the limit of 10 bytes"):
        await ctx.write_artifact("a", [b"12345", b"678901"], "text/plain")
    assert ctx.events == []
    assert ctx.artifacts == {}


async def test_an_artifact_is_not_read_further_than_its_limit() -> None:
    ctx = local()
    ctx.limits = Limits(artifact_bytes=10)
    asked = []

    async def endless() -> Any:
        while True:
            asked.append(1)
            yield b"12345"

    with pytest.raises(ArtifactTooLargeError):
        await ctx.write_artifact("a", endless(), "text/plain")
    assert len(asked) == 3


def test_missing_capabilities_say_what_to_pass() -> None:
    ctx = local()
    with pytest.raises(CapabilityUnavailableError, match="workspace="):
        _ = ctx.workspace
    with pytest.raises(SandboxUnavailable, match="sandbox="):
        _ = ctx.sandbox
    with pytest.raises(CapabilityUnavailableError, match="LocalDiscovery"):
        _ = ctx.discover


async def test_a_call_without_a_client_says_what_to_pass() -> None:
    with pytest.raises(CapabilityUnavailableError, match="InProcessA2AClient"):
        await local().call("anyone", "anything")


def test_an_unknown_secret_is_a_key_error_that_says_how_to_declare_it() -> None:
    with pytest.raises(UnknownSecretError, match=r"secrets=\('token',\)") as caught:
        local().secret("token")
    assert isinstance(caught.value, KeyError)


def test_attempt_and_deadline_refuse_nonsense() -> None:
    ctx = local()
    with pytest.raises(ValueError, match="numbered from 1"):
        ctx.attempt = 0
    with pytest.raises(ValueError, match="time zone"):
        ctx.deadline = datetime(2026, 1, 1)  # noqa: DTZ001 - the mistake under test


async def test_secrets_are_hidden_as_the_fleet_hides_them() -> None:
    ctx = LocalRunContext(auth=NoAuth(), secrets={"key": "sk-1234567890", "short": "abc"})
    await ctx.emit_text_delta("the key is sk-12")
    await ctx.emit_text_delta("34567890!")
    await ctx.emit_event(AgentEvent("custom", {"held": ["sk-1234567890"]}))
    text = "".join(event.payload.get("text", "") for event in ctx.events)
    assert "34567890" not in text
    assert text.endswith("!")
    assert ctx.events[-1].payload == {"held": [HIDDEN]}
    with pytest.raises(InvalidArtifactError, match="name holds the value of a secret"):
        await ctx.write_artifact("sk-1234567890.txt", b"", "text/plain")
    with pytest.raises(UnknownSecretError, match="fewer than 4 characters"):
        ctx.secret("short")


async def test_a_result_holds_no_secret() -> None:
    agent = Agent("keeper", description="Keeps a key")

    @agent.skill
    async def report(ctx: RunContext[NoAuth]) -> str:
        """Return the key."""
        return ctx.secret("key")

    ctx = LocalRunContext(auth=NoAuth(), secrets={"key": "sk-1234567890"})
    assert await run_skill(report, ctx) == HIDDEN


async def test_an_encoded_secret_may_not_be_passed_to_another_agent() -> None:
    ctx = LocalRunContext(auth=NoAuth(), secrets={"key": "sk-1234567890"})
    encoded = base64.b64encode(b"ada:sk-1234567890").decode()
    assert ctx._contains_secret({"header": f"Basic {encoded}"})
    assert not ctx._contains_secret({"header": "Basic"})


async def test_a_local_journal_keeps_secret_answers_in_memory_only() -> None:
    ctx = LocalRunContext(auth=NoAuth(), answers={"The password?": "correct horse"})
    secret = await ctx.ask("The password?", schema=SecretStr)
    assert secret.get_secret_value() == "correct horse"
    journal = ctx.journal
    later = LocalRunContext(auth=NoAuth(), journal=journal)
    assert await later.ask("The password?", schema=SecretStr) == secret
    assert b"correct horse" not in repr(journal.entries).encode()
    copied = copy.copy(journal)
    assert "correct horse" not in repr(vars(copied))
    lost = LocalRunContext(auth=NoAuth(), journal=copied)
    with pytest.raises(InvalidResultError, match="not in this journal"):
        await lost.ask("The password?", schema=SecretStr)


async def test_a_secret_answer_is_given_once_to_a_local_run() -> None:
    ctx = LocalRunContext(auth=NoAuth())
    asking = asyncio.create_task(ctx.ask("The password?", schema=SecretStr))
    await wait_until_async(lambda: asyncio.sleep(0, ctx.waits), what="the question")
    (wait,) = ctx.journal.waits.values()
    ctx.answer("correct horse")
    ctx.answer("correct horse", "The password?")
    with pytest.raises(WaitConflictError):
        ctx.answer("another", "The password?")
    assert "correct horse" not in repr(wait)
    assert (await asking).get_secret_value() == "correct horse"


async def test_a_prepared_secret_that_does_not_fit_is_not_shown() -> None:
    ctx = LocalRunContext(auth=NoAuth(), answers={"The password?": ["correct horse"]})
    with pytest.raises(InvalidArgumentsError) as error:
        await ctx.ask("The password?", schema=SecretStr)
    assert "correct" not in str(error.value)
