"""Conformance of contexts: events."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from skillfleet import AgentEvent, APIKeyAuth, RunContext
from skillfleet.testing.conformance.run_context.table import LIMIT, Case, agent, code_of


class Note(BaseModel):
    text: str
    at: datetime


@dataclass
class Point:
    x: int
    y: float


@agent.skill
async def helpers(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.emit_progress("begun")
    await ctx.emit_progress("halfway", current=5, total=10)
    await ctx.emit_text_delta("Grüße, 世界\n")
    await ctx.emit_text_delta("")
    await ctx.emit_error("one file is unreadable")
    await ctx.emit_error("another too", code="unreadable")


@agent.skill
async def payloads(ctx: RunContext[APIKeyAuth]) -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    await ctx.emit_event(AgentEvent("empty"))
    await ctx.emit_event(AgentEvent("nested", {"a": [1, 2.5, None, True, {"b": "c"}]}))
    await ctx.emit_event(AgentEvent("model", {"note": Note(text="hi", at=noon)}))
    await ctx.emit_event(AgentEvent("dataclass", {"point": Point(1, 2.5)}))
    await ctx.emit_event(AgentEvent("plain.values", {"id": uuid.UUID(int=1), "pair": (1, 2)}))


@agent.skill
async def burst(ctx: RunContext[APIKeyAuth], count: int) -> int:
    for number in range(count):
        await ctx.emit_event(AgentEvent("tick", {"n": number}))
    return count


@agent.skill
async def isolated_payload(ctx: RunContext[APIKeyAuth]) -> None:
    payload = {"words": ["first"]}
    await ctx.emit_event(AgentEvent("words", payload))
    payload["words"].append("changed later")


@agent.skill
async def largest_event(ctx: RunContext[APIKeyAuth]) -> str:
    room = LIMIT - len('{"text":""}')
    await ctx.emit_text_delta("x" * room)
    return await code_of(ctx.emit_text_delta("x" * (room + 1)))


@agent.skill
async def refused_events(ctx: RunContext[APIKeyAuth]) -> dict[str, str]:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    not_an_object: Any = ["a", "list"]
    not_an_event: Any = {"kind": "dict"}
    refused = {
        "state": AgentEvent("state", {"state": "succeeded"}),
        "trimmed": AgentEvent("trimmed"),
        "no kind": AgentEvent(""),
        "kind with a line": AgentEvent("two\nlines"),
        "endless kind": AgentEvent("k" * 101),
        "not JSON": AgentEvent("custom", {"value": object()}),
        "number as key": AgentEvent("custom", {"value": {1: "one"}}),
        "circle": AgentEvent("custom", circle),
        "list": AgentEvent("custom", not_an_object),
        "lone surrogate": AgentEvent("custom", {"text": "\ud800"}),
        "not an event": not_an_event,
    }
    return {name: await code_of(ctx.emit_event(event)) for name, event in refused.items()}


_INVALID_EVENT = "invalid_event"

CASES: tuple[Case, ...] = (
    Case(
        "helpers",
        events=(
            ("progress", {"message": "begun"}),
            ("progress", {"message": "halfway", "current": 5, "total": 10}),
            ("text_delta", {"text": "Grüße, 世界\n"}),
            ("text_delta", {"text": ""}),
            ("error", {"message": "one file is unreadable", "code": None}),
            ("error", {"message": "another too", "code": "unreadable"}),
        ),
    ),
    Case(
        "payloads",
        events=(
            ("empty", {}),
            ("nested", {"a": [1, 2.5, None, True, {"b": "c"}]}),
            ("model", {"note": {"text": "hi", "at": "2026-01-02T12:00:00Z"}}),
            ("dataclass", {"point": {"x": 1, "y": 2.5}}),
            ("plain.values", {"id": str(uuid.UUID(int=1)), "pair": [1, 2]}),
        ),
    ),
    Case(
        "burst",
        {"count": 500},
        result=500,
        events=tuple(("tick", {"n": number}) for number in range(500)),
    ),
    Case("isolated_payload", events=(("words", {"words": ["first"]}),)),
    Case(
        "largest_event",
        result="event_too_large",
        events=(("text_delta", {"text": "x" * (LIMIT - 11)}),),
    ),
    Case(
        "refused_events",
        result=dict.fromkeys(
            (
                *("state", "trimmed", "no kind", "kind with a line", "endless kind", "not JSON"),
                *("number as key", "circle", "list", "lone surrogate", "not an event"),
            ),
            _INVALID_EVENT,
        ),
    ),
)
