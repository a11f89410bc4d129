"""saq on Redis, its default timers; a connection for each slot, as its worker asks for one."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from saq import Queue  # type: ignore[import-not-found]

from benchmarks.peers import awaiting, blocking

queue = Queue.from_url(f"{blocking.URL}?max_connections=3000")


def _job(function: Callable[..., Awaitable[Any]]) -> tuple[str, Any]:
    async def run(ctx: dict[str, Any], **arguments: Any) -> Any:
        return await function(**arguments)

    return function.__name__, run


FUNCTIONS = (awaiting.noop, awaiting.sleep, awaiting.stream, awaiting.hold, awaiting.wait)
settings = {
    "queue": queue,
    "functions": [_job(each) for each in FUNCTIONS],
    "concurrency": int(os.environ.get("BENCH_CONCURRENCY", "10")),
}
