"""Conformance of contexts: artifacts."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from skillfleet import APIKeyAuth, RunContext, SkillError
from skillfleet.testing.conformance.run_context.table import ANYTHING, Case, agent, code_of


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


_INVALID_ARTIFACT = "invalid_artifact"

CASES: tuple[Case, ...] = (
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
)
