"""The same work as plain Celery tasks, configured as its documentation recommends."""

import time
from typing import Any

from celery import Celery

app = Celery("plain", set_as_current=False)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    task_serializer="json",
    accept_content=["json"],
    redis_socket_keepalive=True,
)


@app.task(name="plain.noop")
def noop(number: int = 0, text: str = "") -> int:
    """Do nothing."""
    del text
    return number


@app.task(name="plain.started_at")
def started_at() -> float:
    """Tell when the task began, by this machine's clock."""
    return time.time()


@app.task(name="plain.sleep")
def sleep(seconds: float = 1.0) -> Any:
    """Wait."""
    time.sleep(seconds)
