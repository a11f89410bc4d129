"""The journal of the rounds' skills: a file outside the fleet in which they note what they do.

A line is `<run> <attempt> <word> <monotonic ns> <process id> <its group>`. All but ticks are on the
disk when the skill goes on; `tick` shows now and then that it still runs. A word that is about
something has up to three parts: `have:first:3f2a`.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skillfleet import RunContext

TICK_SECONDS = 0.1


def note(journal: str, ctx: RunContext, word: str) -> None:
    """Append one line."""
    line = (
        f"{ctx.task_id} {ctx.attempt} {word} {time.monotonic_ns()} {os.getpid()} {os.getpgrp()}\n"
    )
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
        if word != "tick":
            os.fsync(file)
    finally:
        os.close(file)


@asynccontextmanager
async def noted(ctx: RunContext, journal: str) -> AsyncIterator[None]:
    """Start, ticks and end of what is done inside."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            note(journal, ctx, "tick")

    note(journal, ctx, "start")
    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        note(journal, ctx, "end")
