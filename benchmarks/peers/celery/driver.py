"""Celery's producer; BENCH_VARIANT names the pool."""

import os
from typing import Any

from benchmarks.peers.celery.worker import JOBS, app
from benchmarks.peers.protocol import Driver, serve


class CeleryDriver(Driver):
    """`apply_async` and `AsyncResult.get`; a batch reuses one producer."""

    pool = os.environ.get("BENCH_VARIANT", "threads")
    cancels_jobs = pool == "prefork"
    reports_start = True

    def worker(self, concurrency: int) -> list[str]:
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
        pool = ["-P", self.pool, "-c", str(concurrency)]
        return ["-m", "celery", "-A", "benchmarks.peers.celery.worker", "worker", *pool, *lean]

    async def submit(self, job: str, **arguments: Any) -> Any:
        return JOBS[job].apply_async(kwargs=arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        task = JOBS[job]
        with app.producer_pool.acquire(block=True) as producer:
            return [task.apply_async(kwargs=each, producer=producer) for each in batch]

    async def result(self, handle: Any) -> Any:
        return handle.get(timeout=60)

    async def unfinished(self) -> int:
        pipe = self.redis.pipeline(transaction=False)
        pipe.llen("celery")
        pipe.hlen("unacked")
        return sum(pipe.execute())

    async def cancel(self, handle: Any) -> None:
        handle.revoke(terminate=True, signal="SIGUSR1")


if __name__ == "__main__":
    serve(CeleryDriver())
