"""Give a task's slot back while it only waits for other tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skillfleet_engine.celery_hooks.jobs import current_job


@asynccontextmanager
async def parked() -> AsyncIterator[bool]:
    """Enter this while the running task only waits for other tasks.

    Its slot is given back, so that the worker may fetch and run a further task: parents that wait
    for their children cannot fill all slots and starve them. On exit the slot is taken again at
    once, even if the worker then runs more tasks than its concurrency for a while.

    Gives False and does nothing outside of `LoopPool`, whose slots alone can be given back. May be
    entered by several coroutines of a task at once: the slot is back when the last of them has
    left.
    """
    job = current_job.get()
    if job is None:
        yield False
        return
    job.slots.park(job)
    try:
        yield True
    finally:
        job.slots.unpark(job)
