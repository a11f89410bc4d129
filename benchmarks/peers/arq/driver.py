"""arq's producer."""

import asyncio
from typing import Any

from arq import create_pool  # type: ignore[import-not-found]

from benchmarks.peers.arq.worker import SETTINGS
from benchmarks.peers.protocol import Driver, serve

_POLL = 0.005  # its default of 0.5 s would be all that one measures
_TOGETHER = 100


class ArqDriver(Driver):
    """`enqueue_job` and `Job.result`; a batch gathers, 100 at a time."""

    cancels_jobs = True

    async def open(self) -> None:
        self.pool = await create_pool(SETTINGS)

    def worker(self, concurrency: int) -> list[str]:
        del concurrency  # read from the environment
        return ["-m", "arq", "benchmarks.peers.arq.worker.WorkerSettings"]

    async def submit(self, job: str, **arguments: Any) -> Any:
        return await self.pool.enqueue_job(job, **arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        handles: list[Any] = []
        for first in range(0, len(batch), _TOGETHER):
            part = batch[first : first + _TOGETHER]
            handles += await asyncio.gather(*(self.submit(job, **each) for each in part))
        return handles

    async def result(self, handle: Any) -> Any:
        return await handle.result(timeout=60, poll_delay=_POLL)

    async def unfinished(self) -> int:
        return int(self.redis.zcard("arq:queue"))

    async def cancel(self, handle: Any) -> None:
        await handle.abort(timeout=60, poll_delay=_POLL)


if __name__ == "__main__":
    serve(ArqDriver())
