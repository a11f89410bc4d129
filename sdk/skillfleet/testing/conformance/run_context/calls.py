"""Conformance of contexts: calling and finding others."""

import asyncio
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from skillfleet import AgentEvent, APIKeyAuth, RunContext
from skillfleet.testing.conformance.run_context.table import AUTH, Case, Event, agent, code_of


@agent.skill(tags=("Echo",))
async def echo(ctx: RunContext[APIKeyAuth], text: str) -> str:
    """Repeats a text."""
    await ctx.emit_text_delta(text)
    await ctx.write_artifact("echo.txt", text.encode(), "text/plain")
    return text


@agent.skill
async def who_calls(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    return ctx.auth.model_dump(mode="json")


@agent.skill
async def unique(ctx: RunContext[APIKeyAuth]) -> str:
    return uuid.uuid4().hex


@agent.skill
async def calls(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    answer = await ctx.call("conformance", "echo", args={"text": "hello"})
    return {
        "result": answer.result,
        "events": [(event.kind, event.payload) for event in answer.events],
        "artifacts": [(ref.name, ref.mime_type, ref.size_bytes) for ref in answer.artifacts],
        "grant_id": answer.grant_id,
    }


@agent.skill
async def calls_at_once(ctx: RunContext[APIKeyAuth], count: int) -> list[str]:
    answers = await asyncio.gather(
        *(ctx.call("conformance", "echo", args={"text": str(n)}) for n in range(count))
    )
    return [answer.result for answer in answers]


@agent.skill
async def passes_identity_on(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    answer = await ctx.call("conformance", "who_calls")
    result: dict[str, Any] = answer.result
    return result


@agent.skill
async def calls_with_key(ctx: RunContext[APIKeyAuth]) -> dict[str, bool]:
    first = await ctx.call("conformance", "unique", key="one")
    again = await ctx.call("conformance", "unique", key="one")
    other = await ctx.call("conformance", "unique", key="two")
    return {"same": first.result == again.result, "other": first.result == other.result}


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def calls_again(ctx: RunContext[APIKeyAuth]) -> dict[str, bool]:
    """Make the same three calls in each of two attempts, and compare what came back."""
    calls = [ctx.call("conformance", "unique", key=key) for key in (None, None, "key")]
    values = [answer.result for answer in await asyncio.gather(*calls)]
    notes = Path(tempfile.gettempdir()) / f"conformance-{os.getuid()}-{ctx.task_id}"
    if ctx.attempt == 1:
        notes.write_text(json.dumps(values))
        raise ConnectionError("after the calls")
    before = json.loads(notes.read_text())
    notes.unlink()
    return {"three": len(set(values)) == 3, "the same": values == before}


@agent.skill
async def failing_calls(ctx: RunContext[APIKeyAuth]) -> dict[str, str]:
    me = "conformance"
    attempts = {
        "unknown agent": ctx.call("missing", "echo"),
        "unknown skill": ctx.call(me, "fly"),
        "missing argument": ctx.call(me, "echo"),
        "wrong argument": ctx.call(me, "echo", args={"text": ["a list"]}),
        "argument is not JSON": ctx.call(me, "echo", args={"text": object()}),
        "number too large": ctx.call(me, "echo", args={"text": 2**70}),
        "half a character": ctx.call(me, "echo", args={"text": "\ud800"}),
        "name is a number": ctx.call(me, "echo", args={1: "x"}),  # type: ignore[dict-item]
        "negative timeout": ctx.call(me, "echo", args={"text": ""}, timeout=-1),
        "own code": ctx.call(me, "fails", args={"code": "custom"}),
        "plain error": ctx.call(me, "fails"),
        "missing scopes": ctx.call(me, "guarded"),
        "own timeout": ctx.call(me, "overdue"),
        "caller's timeout": ctx.call(me, "only_waits", timeout=0.2),
    }
    return {name: await code_of(call) for name, call in attempts.items()}


@agent.skill
async def waits_for_a_child(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.emit_event(AgentEvent("ready"))
    await ctx.call("conformance", "only_waits")


@agent.skill
async def finds(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    by_tag = await ctx.discover.find_agents(tags=["nothing has this", "ECHO"])
    by_skill = await ctx.discover.find_agents(skill="echo")
    by_phrase = await ctx.discover.find_agents(capability="REPEATS a text")
    none = await ctx.discover.find_agents(tags=["echo"], skill="fly")
    me = await ctx.discover.get_agent("conformance")
    card = me.card.skill("add")
    return {
        "by_tag": [found.name for found in by_tag],
        "by_skill": [found.name for found in by_skill],
        "by_phrase": [found.name for found in by_phrase],
        "none": [found.name for found in none],
        "required": card.input_schema["required"] if card else None,
        "unknown": await code_of(ctx.discover.get_agent("missing")),
    }


_READY: Event = ("ready", {})

CASES: tuple[Case, ...] = (
    Case(
        "waits_for_a_child",
        code="cancelled_by_caller",
        events=(_READY,),
        cancel_on="ready",
    ),
    Case(
        "calls",
        result={
            "result": "hello",
            "events": [["text_delta", {"text": "hello"}]],
            "artifacts": [["echo.txt", "text/plain", 5]],
            "grant_id": None,
        },
    ),
    Case("calls_at_once", {"count": 20}, result=[str(n) for n in range(20)]),
    Case("passes_identity_on", result=dict(AUTH)),
    Case("calls_with_key", result={"same": True, "other": False}),
    Case("calls_again", result={"three": True, "the same": True}),
    Case(
        "failing_calls",
        result={
            "unknown agent": "unknown_skill",
            "unknown skill": "unknown_skill",
            "missing argument": "invalid_arguments",
            "wrong argument": "invalid_arguments",
            "argument is not JSON": "invalid_arguments",
            "number too large": "invalid_arguments",
            "half a character": "invalid_arguments",
            "name is a number": "invalid_arguments",
            "negative timeout": "invalid_arguments",
            "own code": "custom",
            "plain error": "skill_error",
            "missing scopes": "missing_scopes",
            "own timeout": "deadline_exceeded",
            "caller's timeout": "deadline_exceeded",
        },
    ),
    Case(
        "finds",
        result={
            "by_tag": ["conformance"],
            "by_skill": ["conformance"],
            "by_phrase": ["conformance"],
            "none": [],
            "required": ["a"],
            "unknown": "unknown_skill",
        },
    ),
)
