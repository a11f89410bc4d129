"""Skills whose ends are hard to write: odd errors and results, calls left open, late ends."""

import asyncio
import time
from typing import Any

from pydantic import BaseModel, model_serializer

from skillfleet import Agent, RunContext, SkillError
from tests.worker.kit import note

agent = Agent("ends")
_kept: list[asyncio.Task[Any]] = []


class UnwritableError(SkillError):
    """An error that breaks whatever looks at it closely."""

    @property
    def retryable(self) -> bool:
        raise RuntimeError("no opinion")

    @retryable.setter
    def retryable(self, value: bool) -> None:
        del value


class Unwritable(BaseModel):
    """A result that fails when it is made JSON."""

    @model_serializer
    def fail(self) -> dict[str, Any]:
        raise RuntimeError("cannot be written")


@agent.skill(max_retries=3)
async def raises_oddly(ctx: RunContext, how: str, journal: str) -> None:
    note(journal, ctx, how)
    if how == "property":
        raise UnwritableError("odd")
    raise SkillError("odd", code=how.encode().decode("unicode_escape"), retry_after=float("nan"))


@agent.skill
async def returns_oddly(ctx: RunContext, how: str, journal: str) -> Any:
    note(journal, ctx, how)
    values: dict[str, Any] = {
        "model": Unwritable(),
        "surrogate": "\ud800",
        "big": 2**70,
        "object": object(),
        "circle": [],
    }
    values["circle"].append(values["circle"])
    return values[how]


@agent.skill(max_retries=1)
async def second_try(ctx: RunContext, value: int) -> int:
    """Fail once, then return the value."""
    if ctx.attempt == 1:
        raise SkillError("once", retryable=True, retry_after=0.01)
    return value


@agent.skill
async def first_drained(ctx: RunContext, value: int, journal: str) -> int:
    """The first attempt waits to be drained; the second returns the value."""
    note(journal, ctx, "start")
    await ctx.emit_progress("waiting")
    if ctx.attempt == 1:
        await asyncio.sleep(600)
    return value


@agent.skill
async def journals(ctx: RunContext, value: Any, journal: str) -> Any:
    note(journal, ctx, str(value))
    return value


@agent.skill(timeout=0.3)
async def fails_late(ctx: RunContext) -> None:
    """Fail after the deadline, without giving the loop a turn to notice it."""
    time.sleep(0.6)  # noqa: ASYNC251 - on purpose
    raise ValueError("too late")


@agent.skill
async def leaves(ctx: RunContext, how: str, journal: str) -> str:
    """End while a call is under way."""

    def call() -> asyncio.Task[Any]:
        arguments = {"seconds": 600.0, "journal": journal}
        return asyncio.ensure_future(ctx.call("kit", "sleep", args=arguments))

    async def begun() -> None:
        while not any("start" in line for line in _lines(journal)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def fails() -> None:
        await begun()
        raise ValueError("the other one failed")

    async def calls_boom() -> None:
        await begun()
        await ctx.call("kit", "boom")

    if how == "gather":
        await asyncio.gather(call(), fails())
    if how == "failed call":
        await asyncio.gather(call(), calls_boom())
    _kept.append(call())
    if how == "at once":
        # The call is submitted, but not claimed yet.
        await asyncio.sleep(0.05)
        return "left"
    await begun()
    return "left"


def _lines(journal: str) -> list[str]:
    try:
        with open(journal, encoding="utf-8") as file:  # noqa: PTH123
            return file.readlines()
    except FileNotFoundError:
        return []
