"""Celery: late acknowledgement, prefetch 1, events off, results in Redis."""

import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from benchmarks.peers import blocking

app = Celery("peer", broker=blocking.URL, backend=blocking.URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


def started() -> float:
    """Return when it began, by this machine's clock."""
    return time.time()


def wait(mark: str) -> int:
    """Wait to be revoked with SIGUSR1 (prefork only), and note when that was seen."""
    blocking.client().set(f"{mark}:started", 1)
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        blocking.client().set(f"{mark}:seen", time.time())
        raise
    return 0


FUNCTIONS: list[Callable[..., Any]] = [
    blocking.noop,
    started,
    blocking.sleep,
    blocking.stream,
    blocking.hold,
    wait,
]
JOBS = {function.__name__: app.task(function) for function in FUNCTIONS}
