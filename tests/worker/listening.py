"""An agent in a module that listens to what Celery says of tasks."""

from typing import Any

from celery import signals

from skillfleet import Agent, RunContext

listening = Agent("listening", description="Returns the signals it received of its own runs")
_received: list[list[str]] = []


@signals.task_prerun.connect(weak=False)
def _begins(task: Any, **_: Any) -> None:
    _received.append(["prerun", task.name, task.request.id])


@signals.task_success.connect(weak=False)
def _succeeds(sender: Any, result: Any, **_: Any) -> None:
    _received.append(["success", sender.name, str(result)])


@signals.task_failure.connect(weak=False)
def _fails(sender: Any, exception: Any, **_: Any) -> None:
    _received.append(["failure", sender.name, str(exception)])


@signals.task_postrun.connect(weak=False)
def _ends(task: Any, state: str, **_: Any) -> None:
    _received.append(["postrun", task.name, state])


@listening.skill
async def work(ctx: RunContext, number: int) -> int:
    """Return the number."""
    return number


@listening.skill
async def boom(ctx: RunContext) -> None:
    """Fail."""
    raise ValueError("bad thing")


@listening.skill
async def received(ctx: RunContext) -> list[list[str]]:
    """Return the signals received so far."""
    return _received
