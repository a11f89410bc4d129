"""Conformance of contexts: steps, their replay and their failures."""

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from skillfleet import APIKeyAuth, RetryPolicy, RunContext, SkillError, StepFailed
from skillfleet.testing.conformance.run_context.table import Case, Notes, agent, code_of


class Page(BaseModel):
    url: str
    words: set[str]


@dataclass
class Size:
    bytes: int


async def fetch(url: str, notes: Notes | None = None) -> Page:
    if notes is not None:
        notes.add(f"fetch {url}")
    await asyncio.sleep(0)
    return Page(url=url, words={"a", "b"})


def measure(page: Page, *, factor: int = 1) -> tuple[Size, bytes]:
    return Size(len(page.words) * factor), b"\x00\xff"


@agent.skill
async def steps(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    page = await ctx.step("fetch", fetch, "https://example.org")
    size, raw = await ctx.step("measure", measure, page, factor=3)
    plain = await ctx.step("plain", lambda: {"n": [1, None]})
    both = await asyncio.gather(*(ctx.step("fetch", fetch, url) for url in ("a", "b")))
    return {
        "types": [type(value).__name__ for value in (page, page.words, size, raw)],
        "size": size.bytes,
        "plain": plain,
        "both": [each.url for each in both],
    }


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def replays(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    """Execute steps in the first attempt, and get their results in the second."""
    notes = Notes(ctx)

    async def key_of(name: str) -> str:
        notes.add(name)
        await ctx.emit_text_delta(f"[{name}]")
        return ctx.step_key

    await ctx.emit_text_delta("begin")
    page = await ctx.step("fetch", fetch, "x", notes, key="the page")
    keys = [await ctx.step("key", key_of, name) for name in ("one", "two", "two")]
    await ctx.emit_text_delta("end")
    notes.add(f"{page!r} {keys}")
    if ctx.attempt == 1:
        raise ConnectionError("after the steps")
    *executed, first, second = notes.end()
    return {
        "executed": sorted(executed),
        "the same": first == second,
        "keys": len({*keys}),
        "letters": len(keys[0]),
        "outside": await _step_key_outside(ctx),
    }


async def _step_key_outside(ctx: RunContext[APIKeyAuth]) -> str:
    async def read() -> str:
        return ctx.step_key

    return await code_of(read())


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def fails_in_a_step(ctx: RunContext[APIKeyAuth], code: str | None = None) -> dict[str, Any]:
    """Catch the failure of a step in two attempts: it stays."""
    notes = Notes(ctx)

    def fail() -> None:
        notes.add("executed")
        raise ValueError("not today") if code is None else SkillError("not today", code=code)

    try:
        await ctx.step("fail", fail)
    except StepFailed as error:
        notes.add(f"{error.step} {error.code} {error.error_type} {error}")
        known = type(error.__cause__).__name__
    if ctx.attempt == 1:
        notes.add(f"cause {known}")
        raise ConnectionError("after the failure")
    return {"seen": notes.end(), "cause": known}


@agent.skill
async def failed_step_fails(ctx: RunContext[APIKeyAuth]) -> None:
    def fail() -> None:
        raise SkillError("no", code="custom")

    await ctx.step("fail", fail)


@agent.skill(max_retries=2, retry_on=(ConnectionError,))
async def failed_step_again(ctx: RunContext[APIKeyAuth], wrapped: bool = False) -> int:
    """Let a failure leave the handler: the run's retry executes the step again."""
    notes = Notes(ctx)

    async def second_time() -> int:
        await ctx.emit_text_delta("partial")
        if notes.add("executed") == 1:
            raise ConnectionError("the first time")
        await ctx.emit_text_delta(" and whole")
        return len(notes.end())

    await ctx.step("before", lambda: 1)
    try:
        return await ctx.step("second", second_time)
    except StepFailed as error:
        if wrapped:
            raise SkillError("wrapped", retryable=True) from error
        raise


@agent.skill
async def retried_step(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """Retry inside of the attempt: the text of the failed try is void, the key stays."""
    keys = []

    async def speak() -> str:
        keys.append(ctx.step_key)
        await ctx.emit_text_delta("Hel")
        if len(keys) == 1:
            raise ConnectionError("in the middle")
        await ctx.emit_text_delta("lo")
        return "said"

    await ctx.emit_text_delta("> ")
    policy = RetryPolicy(max_retries=2, on=(ConnectionError,), base=0.01)
    said = await ctx.step("speak", speak, retry=policy)
    return [said, "same" if len({*keys}) == 1 else "different"]


@agent.skill
async def slow_step(ctx: RunContext[APIKeyAuth]) -> list[str]:
    try:
        await ctx.step("slow", asyncio.sleep, 60, timeout=0.05, key="slow")
    except StepFailed as error:
        return [error.code, error.error_type]
    return []


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def interrupted_step(ctx: RunContext[APIKeyAuth]) -> None:
    """Fail while a step is under way: the next attempt executes it, and its text counts once."""

    async def speak() -> None:
        await ctx.emit_text_delta("Hel")
        if ctx.attempt == 1:
            spoken.set()
            await asyncio.Event().wait()
        await ctx.emit_text_delta("lo")

    async def fail() -> None:
        await spoken.wait()
        raise ConnectionError("next to it")

    spoken = asyncio.Event()
    await ctx.step("before", lambda: 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.step("speak", speak))
        if ctx.attempt == 1:
            group.create_task(fail())


@agent.skill(secrets=("conformance-token",))
async def refused_steps(ctx: RunContext[APIKeyAuth]) -> dict[str, str]:
    async def nested() -> str:
        inner = [ctx.step("inner", fetch, "a"), ctx.ask("?"), ctx.sleep(1), ctx.receive()]
        return " ".join([await code_of(each) for each in inner])

    async def equal_at_once() -> None:
        await asyncio.gather(ctx.step("same", fetch, "a"), ctx.step("same", fetch, "a"))

    async def equal_keys() -> None:
        await asyncio.gather(*(ctx.step("same", fetch, "a", key="equal") for _ in range(2)))

    async def other_name() -> None:
        await ctx.step("other", fetch, "a", key="equal")

    secret = ctx.secret("conformance-token")
    not_a_function: Any = "fetch"
    return {
        "nested": await ctx.step("nested", nested),
        "equal at once": await code_of(equal_at_once()),
        "equal keys at once": await code_of(equal_keys()),
        "a key for another": await code_of(other_name()),
        "no JSON": await code_of(ctx.step("object", fetch, object())),
        "no name": await code_of(ctx.step("", fetch, "a")),
        "no function": await code_of(ctx.step("text", not_a_function)),
        "secret result": await code_of(ctx.step("leak", lambda: f"it is {secret}")),
        "changed by JSON": await code_of(ctx.step("object", lambda: (1, 2))),
        "other type": await code_of(ctx.step("typed", lambda: "text", returns=int)),
    }


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def calls_as_entries(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    """Call others in a run with a journal: results and failures come back."""
    notes = Notes(ctx)
    await ctx.step("first", lambda: 1)

    async def call_in_step() -> str:
        return str((await ctx.call("conformance", "unique")).result)

    echoed = await ctx.call("conformance", "echo", args={"text": "hello"})
    unique = [await ctx.call("conformance", "unique", key=key) for key in (None, None, "k")]
    values = [*(each.result for each in unique), await ctx.step("inside", call_in_step)]
    failed = await code_of(ctx.call("conformance", "fails", args={"code": "custom"}))
    shown = [(event.kind, event.payload) for event in echoed.events]
    notes.add(repr([values, echoed.result, shown, [ref.name for ref in echoed.artifacts]]))
    if ctx.attempt == 1:
        raise ConnectionError("after the calls")
    first, second = notes.end()
    return {
        "the same": first == second,
        "different": len({*values}),
        "failed": failed,
        "other arguments": await code_of(ctx.call("conformance", "who_calls", key="k")),
    }


_DONE, _FAILED = "succeeded", "failed"

CASES: tuple[Case, ...] = (
    Case(
        "steps",
        result={
            "types": ["Page", "set", "Size", "bytes"],
            "size": 6,
            "plain": {"n": [1, None]},
            "both": ["a", "b"],
        },
    ),
    Case(
        "replays",
        result={
            "executed": ["fetch x", "one", "two", "two"],
            "the same": True,
            "keys": 3,
            "letters": 64,
            "outside": "capability_unavailable",
        },
        events=(
            ("text_delta", {"text": "begin"}),
            ("text_delta", {"text": "[one]"}),
            ("text_delta", {"text": "[two]"}),
            ("text_delta", {"text": "[two]"}),
            ("text_delta", {"text": "end"}),
        ),
        text="begin[one][two][two]end",
        steps=(
            ("step", "fetch", _DONE),
            ("step", "key", _DONE),
            ("step", "key", _DONE),
            ("step", "key", _DONE),
        ),
    ),
    Case(
        "fails_in_a_step",
        result={
            "seen": [
                "executed",
                "fail step_failed ValueError step 'fail' failed: ValueError: not today",
                "cause ValueError",
                "fail step_failed ValueError step 'fail' failed: ValueError: not today",
            ],
            "cause": "NoneType",
        },
        steps=(("step", "fail", _FAILED),),
    ),
    Case(
        "fails_in_a_step",
        {"code": "custom"},
        result={
            "seen": [
                "executed",
                "fail custom SkillError step 'fail' failed: not today",
                "cause SkillError",
                "fail custom SkillError step 'fail' failed: not today",
            ],
            "cause": "NoneType",
        },
        note="code",
    ),
    Case("failed_step_fails", code="custom", steps=(("step", "fail", _FAILED),)),
    Case(
        "failed_step_again",
        result=2,
        events=(
            ("text_delta", {"text": "partial"}),
            ("text_delta", {"text": "partial"}),
            ("text_delta", {"text": " and whole"}),
        ),
        text="partial and whole",
        steps=(("step", "before", _DONE), ("step", "second", _DONE)),
    ),
    Case(
        "failed_step_again",
        {"wrapped": True},
        result=2,
        events=(
            ("text_delta", {"text": "partial"}),
            ("text_delta", {"text": "partial"}),
            ("text_delta", {"text": " and whole"}),
        ),
        text="partial and whole",
        note="wrapped",
    ),
    Case(
        "retried_step",
        result=["said", "same"],
        events=(
            ("text_delta", {"text": "> "}),
            ("text_delta", {"text": "Hel"}),
            ("text_delta", {"text": "Hel"}),
            ("text_delta", {"text": "lo"}),
        ),
        text="> Hello",
        steps=(("step", "speak", _DONE),),
    ),
    Case("slow_step", result=["step_failed", "TimeoutError"]),
    Case(
        "interrupted_step",
        text="Hello",
        events=(
            ("text_delta", {"text": "Hel"}),
            ("text_delta", {"text": "Hel"}),
            ("text_delta", {"text": "lo"}),
        ),
    ),
    Case(
        "refused_steps",
        result={
            "nested": " ".join(["nested_step"] * 4),
            "equal at once": "step_key_required",
            "equal keys at once": "none",
            "a key for another": "idempotency_conflict",
            "no JSON": "step_key_required",
            "no name": "invalid_arguments",
            "no function": "invalid_arguments",
            "secret result": "invalid_result",
            "changed by JSON": "invalid_result",
            "other type": "invalid_result",
        },
    ),
    Case(
        "calls_as_entries",
        result={
            "the same": True,
            "different": 4,
            "failed": "custom",
            "other arguments": "idempotency_conflict",
        },
        steps=(
            ("step", "first", _DONE),
            ("call", "conformance.echo", _DONE),
            ("call", "conformance.unique", _DONE),
            ("call", "conformance.unique", _DONE),
            ("call", "conformance.unique", _DONE),
            ("step", "inside", _DONE),
            ("call", "conformance.fails", _FAILED),
        ),
    ),
)
