"""A skill that returns the frames of this project between received bytes and its handler."""

import asyncio
import sys
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from celery import signals

from skillfleet import Agent, RunContext
from skillfleet_engine.loop import bridge

agent = Agent("frames", description="Shows its own call stack")

_stacks: WeakKeyDictionary[asyncio.Task[Any], list[str]] = WeakKeyDictionary()


def _own_frames(frame: FrameType | None) -> list[str]:
    """The frames of skillfleet's packages from the outermost to `frame`, by qualified name."""
    found: list[str] = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("skillfleet"):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return found[::-1]


def _create_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Create a task and note the stack that creates it, with its creator's own stack before."""
    task = asyncio.Task(coro, loop=loop, **options)
    creator = asyncio.current_task(loop)
    before = _stacks.get(creator, []) if creator is not None else []
    _stacks[task] = before + _own_frames(sys._getframe(1))
    return task


@signals.worker_process_init.connect(weak=False)
def _note_stacks(**_: Any) -> None:
    bridge.home_loop().set_task_factory(_create_task)


@agent.skill
async def stack(ctx: RunContext) -> list[str]:
    """Return the frames from the first to the handler's caller."""
    del ctx
    task = asyncio.current_task()
    assert task is not None
    return _stacks[task] + _own_frames(sys._getframe(1))
