"""What every RunContext must do: an agent that tries it, and a table of what must come out.

The table says nothing of how a run is made. A runner starts `agent`'s skills with the claims
`AUTH` and the secrets `SECRETS`, collects an `Observed`, and hands it to `assert_conforms`.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from skillfleet import (
    Agent,
    AgentEvent,
    APIKeyAuth,
    CancelledByCaller,
    RunContext,
    SkillError,
    SkillfleetError,
)

AUTH: Mapping[str, Any] = {"api_key_id": "key-1", "scopes": ["notes:read", "notes:write"]}
SECRETS: Mapping[str, str] = {"conformance-token": "a value that nobody may see"}
LIMIT = 64 * 1024

agent = Agent(
    "conformance",
    description="Exercises every member of its context",
    tags=("testing",),
    auth_model=APIKeyAuth,
)
Context = RunContext[APIKeyAuth]


async def code_of(awaitable: Awaitable[Any]) -> str:
    """The code of the error that `awaitable` raises; "none" when it raises none."""
    try:
        await awaitable
    except SkillfleetError as error:
        return str(error.code)
    return "none"


# --- who and when -------------------------------------------------------------------------


@agent.skill
async def identity(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    return {
        "has_task_id": isinstance(ctx.task_id, str) and ctx.task_id != "",
        "auth": ctx.auth.model_dump(mode="json"),
        "attempt": ctx.attempt,
        "shutting_down": ctx.shutting_down,
    }


@agent.skill(timeout=60)
async def deadline(ctx: RunContext[APIKeyAuth]) -> dict[str, bool]:
    end = ctx.deadline
    if end is None:
        return {"known": False}
    remaining = (end - datetime.now(UTC)).total_seconds()
    return {"known": True, "within_timeout": 0 < remaining <= 61, "utc": end.tzinfo is UTC}


# --- events -------------------------------------------------------------------------------


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


# --- artifacts ----------------------------------------------------------------------------


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


def broken_pieces() -> Iterator[bytes]:
    yield b"the first piece"
    raise SkillError("the source broke", code="broken_source")


@agent.skill
async def artifacts(ctx: RunContext[APIKeyAuth]) -> list[tuple[str, str, int]]:
    refs = [
        await ctx.write_artifact("report.md", b"# Report\n", "text/markdown; charset=utf-8"),
        await ctx.write_artifact("empty.bin", b"", "application/octet-stream"),
        await ctx.write_artifact("charts/größe 1.svg", [b"<svg>", b"", b"</svg>"], "image/svg+xml"),
        await ctx.write_artifact("stream.txt", pieces(b"a", b"b", b"c"), "text/plain"),
        await ctx.write_artifact("view.bin", memoryview(bytes(range(256))), "application/x-bytes"),
        await ctx.write_artifact("large.bin", b"0123456789abcdef" * 65536, "application/x-large"),
    ]
    return [(ref.name, ref.mime_type, ref.size_bytes) for ref in refs]


@agent.skill
async def replaced_artifact(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.write_artifact("note.txt", b"a first, longer version", "text/plain")
    await ctx.write_artifact("note.txt", b"second", "text/x-note")


@agent.skill
async def announced_artifact(ctx: RunContext[APIKeyAuth]) -> bool:
    ref = await ctx.write_artifact("data.json", b"{}", "application/json")
    await ctx.emit_artifact(ref)
    return ref.uri != ""


@agent.skill
async def broken_artifact(ctx: RunContext[APIKeyAuth]) -> str:
    await ctx.write_artifact("kept.txt", b"kept", "text/plain")
    first = await code_of(ctx.write_artifact("kept.txt", broken_pieces(), "text/plain"))
    await code_of(ctx.write_artifact("never.txt", broken_pieces(), "text/plain"))
    return first


@agent.skill
async def refused_artifacts(ctx: RunContext[APIKeyAuth]) -> dict[str, str]:
    text: Any = "text, not bytes"
    texts: Any = ["a list", "of text"]
    number: Any = 7
    refused = {
        "no name": ("", b"", "text/plain"),
        "endless name": ("n" * 256, b"", "text/plain"),
        "absolute": ("/etc/passwd", b"", "text/plain"),
        "upwards": ("a/../../b", b"", "text/plain"),
        "empty part": ("a//b", b"", "text/plain"),
        "backslash": ("..\\b", b"", "text/plain"),
        "control character": ("a\x00b", b"", "text/plain"),
        "no media type": ("a", b"", ""),
        "half a media type": ("a", b"", "text"),
        "media type with a line": ("a", b"", "text/plain\r\nx: y"),
        "text": ("a", text, "text/plain"),
        "texts": ("a", texts, "text/plain"),
        "number": ("a", number, "text/plain"),
    }
    return {what: await code_of(ctx.write_artifact(*given)) for what, given in refused.items()}


# --- secrets, scopes, capabilities --------------------------------------------------------


@agent.skill(secrets=("conformance-token",))
async def secret(ctx: RunContext[APIKeyAuth]) -> str:
    return hashlib.sha256(ctx.secret("conformance-token").encode()).hexdigest()


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


# --- endings ------------------------------------------------------------------------------


@agent.skill
async def add(ctx: RunContext[APIKeyAuth], a: int, b: int = 10) -> int:
    return a + b


@agent.skill
async def wrong_result(ctx: RunContext[APIKeyAuth]) -> int:
    text: Any = "not a number"
    return text  # type: ignore[no-any-return]


@agent.skill
async def fails(ctx: RunContext[APIKeyAuth], code: str | None = None) -> None:
    await ctx.emit_progress("about to fail")
    if code is None:
        raise ValueError("a plain error")
    raise SkillError("an error with a code", code=code)


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def second_time_lucky(ctx: RunContext[APIKeyAuth]) -> int:
    await ctx.emit_event(AgentEvent("attempt", {"number": ctx.attempt}))
    if ctx.attempt == 1:
        raise ConnectionError("the first attempt fails")
    return ctx.attempt


@agent.skill(timeout=0.2)
async def overdue(ctx: RunContext[APIKeyAuth]) -> None:
    await asyncio.Event().wait()


@agent.skill
async def polls(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.check_cancelled()
    await ctx.emit_event(AgentEvent("ready"))
    try:
        while True:
            await ctx.check_cancelled()
    except CancelledByCaller:
        await ctx.emit_event(AgentEvent("cleaned_up"))
        raise


@agent.skill
async def only_waits(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.emit_event(AgentEvent("ready"))
    await asyncio.Event().wait()


# --- calling and finding others -----------------------------------------------------------


@agent.skill(tags=("Echo",))
async def echo(ctx: RunContext[APIKeyAuth], text: str) -> str:
    """Says what it heard."""
    await ctx.emit_text_delta(text)
    await ctx.write_artifact("heard.txt", text.encode(), "text/plain")
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


@agent.skill
async def failing_calls(ctx: RunContext[APIKeyAuth]) -> dict[str, str]:
    me = "conformance"
    attempts = {
        "unknown agent": ctx.call("nobody", "echo"),
        "unknown skill": ctx.call(me, "fly"),
        "missing argument": ctx.call(me, "echo"),
        "wrong argument": ctx.call(me, "echo", args={"text": ["a list"]}),
        "argument is not JSON": ctx.call(me, "echo", args={"text": object()}),
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
    by_phrase = await ctx.discover.find_agents(capability="says what it HEARD")
    nobody = await ctx.discover.find_agents(tags=["echo"], skill="fly")
    me = await ctx.discover.get_agent("conformance")
    card = me.card.skill("add")
    return {
        "by_tag": [found.name for found in by_tag],
        "by_skill": [found.name for found in by_skill],
        "by_phrase": [found.name for found in by_phrase],
        "nobody": [found.name for found in nobody],
        "required": card.input_schema["required"] if card else None,
        "unknown": await code_of(ctx.discover.get_agent("nobody")),
    }


# --- the table ----------------------------------------------------------------------------


class Anything:
    """Equal to everything: for values that are each runtime's own."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "ANYTHING"


ANYTHING = Anything()
Event = tuple[str, dict[str, Any]]
Stored = tuple[bytes, str]


@dataclass(frozen=True)
class Case:
    """One run and what must come of it.

    `code` is None for a run that succeeds with `result`. `cancel_on` is the kind of the event
    upon which the runner cancels the run. `needs` names what a runtime may not have yet:
    "a2a", "discover", "retries".
    """

    skill: str
    args: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    code: str | None = None
    events: tuple[Event, ...] = ()
    artifacts: Mapping[str, Stored] = field(default_factory=dict)
    cancel_on: str | None = None
    needs: frozenset[str] = frozenset()
    note: str = ""

    @property
    def id(self) -> str:
        """A readable name for the test."""
        return f"{self.skill}-{self.note}" if self.note else self.skill


@dataclass
class Observed:
    """What came of a run: its events without the fleet's own, its stored artifacts.

    `message` is the error's, only to explain a surprise.
    """

    result: Any = None
    code: str | None = None
    message: str = ""
    events: list[Event] = field(default_factory=list)
    artifacts: dict[str, Stored] = field(default_factory=dict)


def assert_conforms(case: Case, seen: Observed) -> None:
    """Compare what a runtime did with what it must do; the message says what differs."""
    assert seen.code == case.code, (
        f"{case.id}: code {seen.code!r} ({seen.message}), expected {case.code!r}"
    )
    assert seen.result == case.result, f"{case.id}: result {seen.result!r}, not {case.result!r}"
    assert seen.events == list(case.events), f"{case.id}: events {seen.events!r}"
    assert seen.artifacts == dict(case.artifacts), f"{case.id}: artifacts {list(seen.artifacts)}"


_A2A = frozenset({"a2a"})
_READY: Event = ("ready", {})
_FAILING: Event = ("progress", {"message": "about to fail"})
_INVALID_EVENT = "invalid_event"
_INVALID_ARTIFACT = "invalid_artifact"

CASES: tuple[Case, ...] = (
    Case(
        "identity",
        result={"has_task_id": True, "auth": dict(AUTH), "attempt": 1, "shutting_down": False},
    ),
    Case("deadline", result={"known": True, "within_timeout": True, "utc": True}),
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
    Case(
        "artifacts",
        result=[
            ["report.md", "text/markdown; charset=utf-8", 9],
            ["empty.bin", "application/octet-stream", 0],
            ["charts/größe 1.svg", "image/svg+xml", 11],
            ["stream.txt", "text/plain", 3],
            ["view.bin", "application/x-bytes", 256],
            ["large.bin", "application/x-large", 1048576],
        ],
        artifacts={
            "report.md": (b"# Report\n", "text/markdown; charset=utf-8"),
            "empty.bin": (b"", "application/octet-stream"),
            "charts/größe 1.svg": (b"<svg></svg>", "image/svg+xml"),
            "stream.txt": (b"abc", "text/plain"),
            "view.bin": (bytes(range(256)), "application/x-bytes"),
            "large.bin": (b"0123456789abcdef" * 65536, "application/x-large"),
        },
    ),
    Case("replaced_artifact", artifacts={"note.txt": (b"second", "text/x-note")}),
    Case(
        "announced_artifact",
        result=True,
        events=(
            (
                "artifact",
                {
                    "name": "data.json",
                    "uri": ANYTHING,
                    "mime_type": "application/json",
                    "size_bytes": 2,
                },
            ),
        ),
        artifacts={"data.json": (b"{}", "application/json")},
    ),
    Case(
        "broken_artifact",
        result="broken_source",
        artifacts={"kept.txt": (b"kept", "text/plain")},
    ),
    Case(
        "refused_artifacts",
        result=dict.fromkeys(
            (
                *("no name", "endless name", "absolute", "upwards", "empty part", "backslash"),
                *("control character", "no media type", "half a media type"),
                *("media type with a line", "text", "texts", "number"),
            ),
            _INVALID_ARTIFACT,
        ),
    ),
    Case(
        "secret",
        result=hashlib.sha256(SECRETS["conformance-token"].encode()).hexdigest(),
    ),
    Case("unknown_secret", code="unknown_secret"),
    Case("scopes", code="missing_scopes"),
    Case("guarded", code="missing_scopes"),
    Case("no_workspace", code="capability_unavailable"),
    Case("no_sandbox", code="sandbox_unavailable"),
    Case("add", {"a": 1}, result=11),
    Case("add", {"a": "1"}, code="invalid_arguments", note="text"),
    Case("add", {"a": 1, "b": 2.0}, result=3, note="whole"),
    Case("add", {"b": 2}, code="invalid_arguments", note="missing"),
    Case("add", {"a": "one"}, code="invalid_arguments", note="type"),
    Case("add", {"a": 1, "c": 1}, code="invalid_arguments", note="unknown"),
    Case("wrong_result", code="invalid_result"),
    Case("fails", code="skill_error", events=(_FAILING,)),
    Case("fails", {"code": "custom"}, code="custom", events=(_FAILING,), note="code"),
    Case(
        "second_time_lucky",
        result=2,
        events=(("attempt", {"number": 1}), ("attempt", {"number": 2})),
        needs=frozenset({"retries"}),
    ),
    Case("overdue", code="deadline_exceeded"),
    Case(
        "polls",
        code="cancelled_by_caller",
        events=(_READY, ("cleaned_up", {})),
        cancel_on="ready",
    ),
    Case("only_waits", code="cancelled_by_caller", events=(_READY,), cancel_on="ready"),
    Case(
        "waits_for_a_child",
        code="cancelled_by_caller",
        events=(_READY,),
        cancel_on="ready",
        needs=_A2A,
    ),
    Case(
        "calls",
        result={
            "result": "hello",
            "events": [["text_delta", {"text": "hello"}]],
            "artifacts": [["heard.txt", "text/plain", 5]],
            "grant_id": None,
        },
        needs=_A2A,
    ),
    Case("calls_at_once", {"count": 20}, result=[str(n) for n in range(20)], needs=_A2A),
    Case("passes_identity_on", result=dict(AUTH), needs=_A2A),
    Case("calls_with_key", result={"same": True, "other": False}, needs=_A2A),
    Case(
        "failing_calls",
        result={
            "unknown agent": "unknown_skill",
            "unknown skill": "unknown_skill",
            "missing argument": "invalid_arguments",
            "wrong argument": "invalid_arguments",
            "argument is not JSON": "invalid_arguments",
            "negative timeout": "invalid_arguments",
            "own code": "custom",
            "plain error": "skill_error",
            "missing scopes": "missing_scopes",
            "own timeout": "deadline_exceeded",
            "caller's timeout": "deadline_exceeded",
        },
        needs=_A2A,
    ),
    Case(
        "finds",
        result={
            "by_tag": ["conformance"],
            "by_skill": ["conformance"],
            "by_phrase": ["conformance"],
            "nobody": [],
            "required": ["a"],
            "unknown": "unknown_skill",
        },
        needs=frozenset({"discover"}),
    ),
)
