"""Celery on an event loop, through its own hooks; for any Celery app.

- `LoopPool` and `LoopConsumer`: for the settings `worker_pool` and `worker_consumer`, as
  `"skillfleet_engine:LoopPool"` and `"skillfleet_engine:LoopConsumer"`
- `AsyncTask`: the base class of tasks that are `async def`, in every pool
- `transport`: a Redis transport that claims messages instead of popping them
- `loop.bridge`: `run`, `home_loop` and `at_home`, between synchronous code and coroutines
- `celery_hooks.slots.release_slot`: release the slot while waiting for other tasks
- `loop.watchdog.loop_blocked`: a signal sent while code blocks the event loop
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillfleet_engine.celery_hooks.consumer import LoopConsumer
    from skillfleet_engine.celery_hooks.pool import LoopPool
    from skillfleet_engine.celery_hooks.task import AsyncTask

__all__ = ["AsyncTask", "LoopConsumer", "LoopPool"]

_MODULES = {"AsyncTask": "task", "LoopConsumer": "consumer", "LoopPool": "pool"}


def __getattr__(name: str) -> Any:
    # At first use: a module of the engine alone must not load Celery's worker.
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.celery_hooks.{module}"), name)
