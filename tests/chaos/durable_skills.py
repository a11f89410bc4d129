"""The agent of the durable kinds: what each entry of a journal led to is noted on disk.

`step:<name>:<key>` is a step's function that begins, `made:<name>:<value>` its result, and
`broke:<name>` its failure. `ask:<name>` comes before a question. `have:<name>:<value>` is what the
handler itself got: a result, an answer, a message, or how it ended without one. All that it got is
the run's result.
"""

import asyncio
import hashlib
import os
import secrets
from collections.abc import Sequence
from typing import Any

import orjson

from skillfleet import (
    Agent,
    RetryPolicy,
    RunContext,
    SkillError,
    StepFailed,
    WaitRejected,
    WaitTimedOut,
)
from tests.chaos.notes import note, noted

agent = Agent("durable", description="What continues where it was")
PIECES = 3
"""Into how many pieces the text of a step is cut."""
_LARGE = "x" * 40_000
"""More than an entry of a journal holds itself."""
_AGAIN = RetryPolicy(max_retries=3)
Had = dict[str, str]


class Diary:
    """What one attempt does and gets."""

    def __init__(self, ctx: RunContext, journal: str) -> None:
        self._ctx = ctx
        self._journal = journal
        self.had: Had = {}

    def note(self, word: str) -> None:
        """Append one line."""
        note(self._journal, self._ctx, word)

    async def have(self, name: str, value: str) -> None:
        """Note what the handler got, and say so in its text."""
        self.had[name] = value
        self.note(f"have:{name}:{value}")
        await self._ctx.emit_text_delta(f"after-{name};")

    async def step(self, name: str, pause: float = 0.01, *, key: str | None = None) -> None:
        """Execute a step that succeeds."""
        await self.have(name, await self._ctx.step(name, self.work, name, pause, key=key))

    async def work(self, name: str, pause: float) -> str:
        """Return a value that is another one in each execution."""
        self.note(f"step:{name}:{self._ctx.step_key[:16]}")
        for piece in range(PIECES):
            await self._ctx.emit_text_delta(f"{name}.{piece};")
            await asyncio.sleep(pause)
        value = secrets.token_hex(4)
        self.note(f"made:{name}:{value}")
        return value

    async def work_large(self, name: str, pause: float) -> str:
        """The same with a large value."""
        return await self.work(name, pause) + _LARGE

    async def fail(self, name: str, error: SkillError) -> str:
        """Stream like a step that succeeds, and fail."""
        self.note(f"step:{name}:{self._ctx.step_key[:16]}")
        for piece in range(PIECES):
            await self._ctx.emit_text_delta(f"{name}.{piece};")
        self.note(f"broke:{name}")
        raise error

    async def fail_once(self, name: str, after: float) -> str:
        """Fail in the first execution that comes so far, whichever attempt it belongs to."""
        if not is_first(f"{self._journal}-{self._ctx.task_id}-{name}"):
            return await self.work(name, 0.01)
        return await self.fail(name, SkillError("shaky", retryable=True, retry_after=after))

    async def fail_early(self, name: str, attempts: int) -> str:
        """Fail in the first attempts."""
        if self._ctx.attempt > attempts:
            return await self.work(name, 0.01)
        return await self.fail(name, SkillError("again", retryable=True, retry_after=0.3))

    async def ask(self, name: str, timeout: float | None, *, key: str | None = None) -> None:
        """Ask a question and note how it was decided."""
        self.note(f"ask:{name}")
        try:
            answer = await self._ctx.ask(f"Question {name}", schema=int, timeout=timeout, key=key)
        except WaitRejected as error:
            await self.have(name, f"rejected={error.reason}")
        except WaitTimedOut:
            await self.have(name, "expired")
        else:
            await self.have(name, f"answer={answer}")

    async def call(self, name: str, skill: str, **args: Any) -> None:
        """Call a skill and note a digest of its result."""
        called = await self._ctx.call(*skill.split("."), args={"journal": self._journal} | args)
        text = orjson.dumps(called.result, option=orjson.OPT_SORT_KEYS)
        await self.have(name, hashlib.sha256(text).hexdigest()[:16])


def is_first(mark: str) -> bool:
    """Return True for the first caller with a mark, which is a file."""
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


async def _steps(ctx: RunContext, journal: str, pause: float, failing: int) -> Had:
    diary = Diary(ctx, journal)

    async def branch(name: str) -> None:
        await diary.step(f"{name}1", pause, key=f"{name}1")
        await diary.step(f"{name}2", pause, key=f"{name}2")

    async with noted(ctx, journal):
        await diary.step("first", pause)
        await asyncio.gather(*(branch(name) for name in ("left", "middle", "right")))
        for name, after in (("shaky", 0.1), ("slow", 1.1)):
            value = await ctx.step(name, diary.fail_once, name, after, retry=_AGAIN)
            await diary.have(name, value)
        try:
            await ctx.step("caught", diary.fail, "caught", SkillError("as ordered"), key="caught")
        except StepFailed as error:
            await diary.have("caught", f"failed={error.error_type}")
        escaping = await ctx.step("escaping", diary.fail_early, "escaping", failing)
        await diary.have("escaping", escaping)
        large = await ctx.step("large", diary.work_large, "large", pause)
        await diary.have("large", large.removesuffix(_LARGE))
        await ctx.sleep(1.0)
        await diary.step("last", pause)
    return diary.had


@agent.skill(durable=True, max_retries=9)
async def steps(ctx: RunContext, journal: str, pause: float, failing: int) -> Had:
    """Steps in a row and at once; failures that are retried, caught, or fail the attempt."""
    return await _steps(ctx, journal, pause, failing)


@agent.skill(max_retries=9)
async def kept(ctx: RunContext, journal: str, pause: float, failing: int) -> Had:
    """The same, never parked."""
    return await _steps(ctx, journal, pause, failing)


async def _questions(
    ctx: RunContext, journal: str, row: Sequence[str], at_once: Sequence[str], timeout: float | None
) -> Had:
    diary = Diary(ctx, journal)
    async with noted(ctx, journal):
        await diary.step("first")
        for name in row:
            await diary.ask(name, timeout)
            await diary.step(f"after{name}")
        await asyncio.gather(*(diary.ask(name, timeout, key=name) for name in at_once))
    return diary.had


@agent.skill(durable=True)
async def questions(
    ctx: RunContext, journal: str, row: list[str], at_once: list[str], timeout: float | None
) -> Had:
    """Ask questions in a row, with steps between them, and then some at once."""
    return await _questions(ctx, journal, row, at_once, timeout)


@agent.skill
async def patient(
    ctx: RunContext, journal: str, row: list[str], at_once: list[str], timeout: float | None
) -> Had:
    """The same, never parked."""
    return await _questions(ctx, journal, row, at_once, timeout)


@agent.skill(durable=True)
async def inbox(ctx: RunContext, journal: str, timeout: float | None) -> Had:
    """Receive messages, each followed by a step, until one says that it is the last."""
    diary, number, is_last = Diary(ctx, journal), 0, False
    async with noted(ctx, journal):
        while not is_last:
            number += 1
            try:
                message = await ctx.receive(timeout=timeout)
            except WaitTimedOut:
                await diary.have(f"m{number}", "none")
                continue
            await diary.have(f"m{number}", message["token"])
            await diary.step(f"on{number}")
            is_last = message["last"]
    return diary.had


@agent.skill(durable=True)
async def caller(ctx: RunContext, journal: str, seconds: float) -> Had:
    """Call children that last longer than a run waits in memory: one, and then two at once."""
    diary = Diary(ctx, journal)
    async with noted(ctx, journal):
        await diary.step("first")
        await diary.call("c1", "chaos.sleep", seconds=seconds)
        await asyncio.gather(
            diary.call("c2", "chaos.sleep", seconds=seconds / 2),
            diary.call("c3", "durable.steps", pause=0.05, failing=0),
        )
        await diary.step("last")
    return diary.had


@agent.skill(durable=True)
async def turn(ctx: RunContext, journal: str, seconds: float) -> Had:
    """Add the run to the state of its session, after a pause; `turns` is what it found there."""
    diary, session = Diary(ctx, journal), ctx.session
    assert session is not None
    async with noted(ctx, journal):
        before: list[str] = await session.load([])
        await diary.step("first")
        await diary.have("turns", str(len(before)))
        await ctx.sleep(seconds)
        await diary.step("last")
        await session.save([*before, ctx.task_id])
    return diary.had


@agent.skill
async def pulse(ctx: RunContext, journal: str, seconds: float) -> Had:
    """Executed by a schedule whose runs may overlap."""
    return await _pulse(ctx, journal, seconds)


@agent.skill
async def alone(ctx: RunContext, journal: str, seconds: float) -> Had:
    """Executed by a schedule whose runs may not."""
    return await _pulse(ctx, journal, seconds)


async def _pulse(ctx: RunContext, journal: str, seconds: float) -> Had:
    diary = Diary(ctx, journal)
    async with noted(ctx, journal):
        await diary.step("first")
        await asyncio.sleep(seconds)
    return diary.had
