"""Release of a task's slot while the task only waits for other tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skillfleet_engine.celery_hooks.jobs import current_job


@asynccontextmanager
async def release_slot() -> AsyncIterator[bool]:
    """Release the running task's slot inside the block; take it again on exit.

    The worker may fetch and run another task meanwhile, so parents that wait for their children
    cannot occupy all slots and starve them. On exit the slot is taken at once, even if the worker
    then runs more tasks than its concurrency for a while.

    Yields False, and does nothing, outside of `LoopPool`: other pools cannot release a slot.
    Several coroutines of one task may be inside at once: the slot is taken again when the last
    one leaves.
    """
    job = current_job.get()
    if job is None:
        yield False
        return
    job.slots.release_slot(job)
    try:
        yield True
    finally:
        job.slots.retake_slot(job)
