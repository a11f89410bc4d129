"""An agent whose parked attempts are reported to Celery late, as on a busy machine."""

import time
from pathlib import Path
from typing import Any

from celery import signals

from skillfleet import Agent, RunContext

late = Agent("late", description="Asks; its retries are reported once a file exists")


@signals.task_retry.connect(weak=False)
def _wait(request: Any, **_: Any) -> None:
    while not Path(request.kwargs["reported"]).exists():
        time.sleep(0.01)


@late.skill(durable=True)
async def asks(ctx: RunContext, reported: str) -> bool:
    """Ask a question."""
    return await ctx.ask("Continue?", schema=bool)
