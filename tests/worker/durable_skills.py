"""Agent of the tests of durable runs: steps, waits and calls, noted in files outside the fleet."""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from skillfleet import Agent, AgentEvent, RunContext, SkillError
from skillfleet.errors import StepFailed, WaitRejected, WaitTimedOut
from skillfleet_worker.attempts.attempt import Attempt
from tests.worker.kit import note

durable = Agent("durable", description="What the tests of durable runs run")


class Approval(BaseModel):
    approved: bool
    by: str = ""


async def _until(path: str) -> None:
    while path and not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - a test's skill may
        await asyncio.sleep(0.01)


@durable.skill(durable=True)
async def steps(
    ctx: RunContext, journal: str, until: str = "", count: int = 4, waits: int = 3
) -> list[str]:
    """Make `count` steps, which each stream a text; number `waits` waits for the file `until`."""

    async def work(number: int) -> str:
        note(journal, ctx, f"step {number} {ctx.step_key}")
        await ctx.emit_text_delta(f"<{number}")
        if number == waits:
            await _until(until)
        await ctx.emit_text_delta(f"{number}>")
        return f"result {number}"

    note(journal, ctx, "start")
    await ctx.emit_text_delta("begin ")
    results = [await ctx.step(f"step {number}", work, number) for number in range(1, count + 1)]
    await ctx.emit_text_delta(" end")
    return results


@durable.skill(durable=True)
async def branches(ctx: RunContext, journal: str, until: str, count: int = 4) -> list[int]:
    """Run `count` branches of three steps at once; the second step waits for the file `until`."""

    async def work(branch: int, number: int) -> int:
        note(journal, ctx, f"step {branch} {number}")
        if number == 2:
            await _until(until)
        return branch * 10 + number

    async def run_branch(branch: int) -> int:
        total = 0
        for number in (1, 2, 3):
            total += await ctx.step("work", work, branch, number)
        return total

    return list(await asyncio.gather(*map(run_branch, range(count))))


@durable.skill(durable=True)
async def asks(ctx: RunContext, journal: str = "", timeout: float | None = None) -> str:
    """Ask after one step, and return the answer."""

    async def prepare() -> str:
        if journal:
            note(journal, ctx, "step")
        return "prepared"

    await ctx.step("prepare", prepare)
    try:
        answer = await ctx.ask("Deploy?", schema=Approval, timeout=timeout)
    except WaitRejected as error:
        return f"rejected by {error.by}: {error.reason}"
    except WaitTimedOut:
        return "timed out"
    return f"{answer.approved} by {answer.by}"


@durable.skill
async def asks_in_memory(ctx: RunContext, journal: str) -> bool:
    """Ask in a run that is never parked."""
    note(journal, ctx, "start")
    return await ctx.ask("Continue?", schema=bool)


@durable.skill(durable=True)
async def asks_twice(ctx: RunContext) -> list[bool]:
    """Ask two questions at once."""
    return list(
        await asyncio.gather(
            ctx.ask("First?", schema=bool, key="first"),
            ctx.ask("Second?", schema=bool, key="second"),
        )
    )


@durable.skill(durable=True)
async def sleeps(ctx: RunContext, seconds: float, journal: str) -> str:
    note(journal, ctx, "start")
    await ctx.sleep(seconds)
    note(journal, ctx, "awake")
    return "awake"


@durable.skill(durable=True)
async def receives(ctx: RunContext, count: int, timeout: float | None = None) -> list[Any]:
    """Receive `count` inbox messages."""
    found = []
    for _ in range(count):
        try:
            found.append(await ctx.receive(timeout=timeout))
        except WaitTimedOut:
            found.append("timed out")
    return found


@durable.skill(durable=True)
async def calls(ctx: RunContext, journal: str, until: str) -> str:
    """Call a run that lasts until the file `until` exists."""
    note(journal, ctx, "start")
    answer = await ctx.call("durable", "lasts", args={"journal": journal, "until": until})
    return f"called: {answer.result}"


@durable.skill
async def lasts(ctx: RunContext, journal: str, until: str) -> str:
    note(journal, ctx, "start")
    await _until(until)
    return "lasted"


@durable.skill(durable=True, max_retries=1)
async def retried(ctx: RunContext, journal: str) -> str:
    """Fail in a step in the first attempt; one failure is caught, the other ends the attempt."""

    async def fails(word: str) -> str:
        note(journal, ctx, word)
        if ctx.attempt == 1 or word == "caught":
            raise SkillError("once", retryable=True, retry_after=0.01)
        return word

    try:
        await ctx.step("caught", fails, "caught")
    except StepFailed:
        await ctx.emit_event(AgentEvent("caught"))
    return str(await ctx.step("fails", fails, "fails"))


@durable.skill(durable=True, timeout=2.0)
async def timed(ctx: RunContext, working: float = 0.0) -> float:
    """Ask, then work for some seconds."""
    await ctx.ask("Go?", schema=bool)
    await asyncio.sleep(working)
    return working


@durable.skill(durable=True)
async def many_steps(ctx: RunContext, journal: str, count: int) -> int:
    """Make `count` short steps: a drain gives the run back between two of them."""
    for number in range(count):
        await ctx.step("work", _work, journal, ctx.task_id, number)
    return count


async def _work(journal: str, run_id: str, number: int) -> int:
    with Path(journal).open("a", encoding="utf-8") as file:  # noqa: ASYNC230 - a test's skill may
        file.write(f"{run_id} begin {number}\n")
    await asyncio.sleep(0.1)
    with Path(journal).open("a", encoding="utf-8") as file:  # noqa: ASYNC230
        file.write(f"{run_id} end {number}\n")
    return number


@durable.skill(durable=True)
async def large_step(ctx: RunContext, size: int) -> int:
    """Record a large value, ask, and return the size of what is recorded."""

    async def read() -> str:
        return "x" * size

    value = await ctx.step("read", read)
    await ctx.ask("Go on?", schema=bool)
    return len(value)


@durable.skill
async def fills(ctx: RunContext, size: int) -> None:
    """Record values until the journal is full."""

    async def read(number: int) -> str:
        return f"{number}" * size

    for number in range(1000):
        await ctx.step("read", read, number)


@durable.skill
async def live_attempts(ctx: RunContext) -> int:
    """Return how many attempts the memory of this worker holds."""
    gc.collect()
    return sum(isinstance(each, Attempt) for each in gc.get_objects())


@durable.skill(durable=True)
async def asks_blocked(ctx: RunContext, until: str) -> bool:
    """Ask while the handler's loop is blocked: the question is open, but not awaited yet."""

    def block() -> None:
        while not Path(until).exists():
            time.sleep(0.01)

    asyncio.get_running_loop().call_soon(block)
    return await ctx.ask("Go on?", schema=bool)


@durable.skill(durable=True)
async def large_value(ctx: RunContext, size: int, until: str) -> list[int]:
    """Record a value of so many bytes, wait for the file `until`; and return what is recorded."""

    def read() -> str:
        return "x" * size

    value = await ctx.step("read", read)
    await _until(until)
    return [len(value), ctx.attempt]
