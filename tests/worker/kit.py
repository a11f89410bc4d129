"""Test kit: the agent whose skills the tests of worker and producer run.

A journal, where a skill takes one, is a file outside the fleet: a line `<run> <attempt> <word>`
is on the disk when the skill goes on.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from skillfleet import Agent, AgentEvent, RunContext, SkillError
from skillfleet.errors import EventsUnwritableError

agent = Agent("kit", description="What the tests run")
_together = {"now": 0, "most": 0}


def note(journal: str, ctx: RunContext, word: str) -> None:
    """Append one line to a journal, durably."""
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(f"{ctx.task_id} {ctx.attempt} {word}\n")
        file.flush()
        os.fsync(file.fileno())


@agent.skill
async def add(ctx: RunContext, x: int, y: int = 1) -> int:
    return x + y


@agent.skill
async def same(ctx: RunContext, value: Any = None) -> Any:
    return value


@agent.skill
async def together(ctx: RunContext, count: int) -> int:
    """Wait for `count` of these to run at once, then one second; how many it were at the most."""
    _together["now"] += 1
    _together["most"] = max(_together["most"], _together["now"])
    try:
        async with asyncio.timeout(60):
            while _together["most"] < count:  # noqa: ASYNC110 - simple on purpose
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    finally:
        _together["now"] -= 1
    return _together["most"]


@agent.skill
async def stream(ctx: RunContext, n: int = 5, pause: float = 0.0) -> str:
    for i in range(n):
        await ctx.emit_progress(f"{i}", current=i, total=n)
        if pause:
            await asyncio.sleep(pause)
    return "done"


@agent.skill
async def sleep(ctx: RunContext, seconds: float, journal: str = "") -> float:
    if journal:
        note(journal, ctx, "start")
    await ctx.emit_progress("sleeping")
    await asyncio.sleep(seconds)
    if journal:
        note(journal, ctx, "end")
    return seconds


@agent.skill
async def polls(ctx: RunContext) -> None:
    await ctx.emit_progress("polling")
    while True:
        await ctx.check_cancelled()
        await asyncio.sleep(0.005)


@agent.skill
async def stubborn(ctx: RunContext, release: str) -> None:
    """Swallow every cancellation until the file `release` exists."""
    await ctx.emit_progress("stubborn")
    while not Path(release).exists():  # noqa: ASYNC240 - a test's skill may
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            continue


@agent.skill
async def boom(ctx: RunContext) -> None:
    raise ValueError("bad thing")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class MuteBaseError(BaseException):
    __str__ = __repr__ = MuteError.__str__


@agent.skill
async def raises(ctx: RunContext, how: str) -> None:
    errors: dict[str, BaseException] = {
        "surrogate": ValueError("\ud800"),
        "mute": MuteError(),
        "mute base": MuteBaseError(),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "long": ValueError("x" * 1_000_000),
    }
    raise errors[how]


@agent.skill(max_retries=2)
async def flaky(ctx: RunContext) -> int:
    if ctx.attempt < 3:
        raise SkillError("again", retryable=True, retry_after=0.01)
    return ctx.attempt


@agent.skill(timeout=0.3)
async def overdue(ctx: RunContext) -> None:
    await asyncio.sleep(60)


@agent.skill
async def wrong_result(ctx: RunContext) -> int:
    text: Any = "no number"
    return text  # type: ignore[no-any-return]


@agent.skill
async def large_result(ctx: RunContext, size: int) -> str:
    return "x" * size


@agent.skill
async def large_artifact(ctx: RunContext, size: int) -> None:
    await ctx.write_artifact("large.bin", bytes(size), "application/octet-stream")


@agent.skill
async def large_event(ctx: RunContext, size: int) -> None:
    await ctx.emit_text_delta("x" * size)


@agent.skill
async def parent(ctx: RunContext, n: int = 5) -> int:
    answers = await asyncio.gather(
        *(ctx.call("kit", "add", args={"x": i, "y": 0}) for i in range(n))
    )
    return sum(answer.result for answer in answers)


@agent.skill
async def calls_sleeper(ctx: RunContext, seconds: float = 60.0) -> None:
    await ctx.emit_progress("calling")
    await ctx.call("kit", "nest", args={"depth": 1, "seconds": seconds})


@agent.skill
async def nest(ctx: RunContext, depth: int, seconds: float = 0.0) -> int:
    """Call itself `depth` times; the innermost sleeps."""
    if depth:
        answer = await ctx.call("kit", "nest", args={"depth": depth - 1, "seconds": seconds})
        return int(answer.result) + 1
    await ctx.emit_event(AgentEvent("innermost"))
    await asyncio.sleep(seconds)
    return 0


@agent.skill
async def journals(ctx: RunContext, journal: str, word: str) -> str:
    note(journal, ctx, word)
    return word


@agent.skill(max_retries=2)
async def retried_parent(ctx: RunContext, journal: str) -> str:
    """Call a child in each attempt, and fail once after it ended."""
    answer = await ctx.call("kit", "journals", args={"journal": journal, "word": "child"})
    if ctx.attempt == 1:
        raise SkillError("once", retryable=True, retry_after=0.01)
    return f"{answer.result} {ctx.attempt}"


@agent.skill
async def calls_retried(ctx: RunContext, journal: str) -> str:
    answer = await ctx.call("kit", "retried_parent", args={"journal": journal})
    return str(answer.result)


@agent.skill
async def deadline_of_child(ctx: RunContext, timeout: float | None = None) -> list[float]:
    """The deadlines (seconds since the epoch) of this run and of one that it calls."""
    mine = ctx.deadline.timestamp() if ctx.deadline else 0.0
    answer = await ctx.call("kit", "my_deadline", timeout=timeout)
    return [mine, answer.result]


@agent.skill
async def my_deadline(ctx: RunContext) -> float:
    return ctx.deadline.timestamp() if ctx.deadline else 0.0


@agent.skill(timeout=600)
async def drains(ctx: RunContext, journal: str, until: str, heed: bool = False) -> str:
    """Wait for the file `until`, noting in the journal when the worker begins to shut down.

    With `heed`, end then.
    """
    note(journal, ctx, "start")
    await ctx.emit_progress("running")
    notified = False
    while not Path(until).exists():  # noqa: ASYNC240 - a test's skill may
        await asyncio.sleep(0.01)
        if ctx.shutting_down and not notified:
            notified = True
            note(journal, ctx, "notified")
            if heed:
                return "heeded"
    note(journal, ctx, "end")
    return "ended"


@agent.skill(max_deliveries=2)
async def poison(ctx: RunContext, journal: str) -> None:
    note(journal, ctx, "start")
    os.kill(os.getpid(), 9)


@agent.skill
async def writes_on(ctx: RunContext, journal: str, go: str) -> str:
    """The first attempt waits for the file `go` and writes then; the others return at once."""
    note(journal, ctx, "start")
    if ctx.attempt > 1:
        return "second"
    await ctx.emit_progress("first")
    while not Path(go).exists():  # noqa: ASYNC110, ASYNC240 - a test's skill may
        await asyncio.sleep(0.01)
    try:
        await ctx.emit_text_delta("stale")
        await ctx.write_artifact("stale.txt", b"stale", "text/plain")
    finally:
        note(journal, ctx, "wrote")
    return "first"


@agent.skill
async def process_id(ctx: RunContext) -> int:
    return os.getpid()


@agent.skill
async def total(ctx: RunContext, values: list[int]) -> int:
    return sum(values)


@agent.skill
async def shielded(ctx: RunContext, seconds: float) -> str:
    """Finish within the grace of a cancellation."""
    await ctx.emit_progress("shielded")
    await asyncio.sleep(seconds)
    return "finished"


@agent.skill
async def artifact(ctx: RunContext, size: int) -> int:
    ref = await ctx.write_artifact("data.bin", os.urandom(size), "application/octet-stream")
    await ctx.emit_artifact(ref)
    return ref.size_bytes


@agent.skill
async def leaves_a_child(ctx: RunContext, journal: str) -> str:
    """Return while a called run still runs."""
    arguments = {"seconds": 600, "journal": journal}
    call = asyncio.ensure_future(ctx.call("kit", "sleep", args=arguments))
    while not Path(journal).exists():  # noqa: ASYNC110, ASYNC240 - a test's skill may
        await asyncio.sleep(0.01)
    return "gone" if not call.done() else "done"


@agent.skill
async def reports_shutdown(ctx: RunContext, journal: str) -> None:
    """Emit events until that fails."""
    try:
        while True:
            await ctx.emit_progress("on and on")
            await asyncio.sleep(0.01)
    except EventsUnwritableError:
        note(journal, ctx, "unwritable")
        raise
