"""arq, tuned: the worker polls each 10 ms, not each 0.5 s; jobs can be aborted."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from arq.connections import RedisSettings  # type: ignore[import-not-found]
from arq.worker import func  # type: ignore[import-not-found]

from benchmarks.peers import awaiting, blocking

SETTINGS = RedisSettings.from_dsn(blocking.URL)


def _job(function: Callable[..., Awaitable[Any]]) -> Any:
    async def run(ctx: dict[str, Any], **arguments: Any) -> Any:
        return await function(**arguments)

    return func(run, name=function.__name__)


class WorkerSettings:
    """Read by arq's command."""

    functions: ClassVar[list[Any]] = [
        _job(each)
        for each in (awaiting.noop, awaiting.sleep, awaiting.stream, awaiting.hold, awaiting.wait)
    ]
    redis_settings = SETTINGS
    max_jobs = int(os.environ.get("BENCH_CONCURRENCY", "10"))
    poll_delay = 0.01
    allow_abort_jobs = True
