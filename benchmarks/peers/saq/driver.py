"""saq's producer."""

import asyncio
from typing import Any

from benchmarks.peers.protocol import Driver, serve
from benchmarks.peers.saq.worker import queue

_TIMEOUT = 300  # its default ends a job after 10 s


class SaqDriver(Driver):
    """`enqueue` and `Job.refresh`; a batch gathers."""

    cancels_jobs = True

    async def open(self) -> None:
        await queue.connect()

    def worker(self, concurrency: int) -> list[str]:
        del concurrency  # read from the environment
        return ["-m", "saq", "benchmarks.peers.saq.worker.settings"]

    async def submit(self, job: str, **arguments: Any) -> Any:
        return await queue.enqueue(job, timeout=_TIMEOUT, **arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        return await asyncio.gather(*(self.submit(job, **each) for each in batch))

    async def result(self, handle: Any) -> Any:
        while not handle.completed:  # a job that ends between its read and its listen is missed
            try:
                await handle.refresh(until_complete=1)
            except TimeoutError:
                continue
        return handle.result

    async def unfinished(self) -> int:
        return int(self.redis.zcard("saq:default:incomplete"))

    async def cancel(self, handle: Any) -> None:
        await handle.abort("benchmark")


if __name__ == "__main__":
    serve(SaqDriver())
