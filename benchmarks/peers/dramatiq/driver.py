"""dramatiq's producer."""

from typing import Any

from benchmarks.peers.dramatiq.worker import JOBS, broker
from benchmarks.peers.protocol import Driver, serve


class DramatiqDriver(Driver):
    """`send` and `get_result(block=True)`; a batch enqueues prepared messages."""

    def worker(self, concurrency: int) -> list[str]:
        module = "benchmarks.peers.dramatiq.worker"
        return ["-m", "dramatiq", module, "-p", "1", "-t", str(concurrency)]

    async def submit(self, job: str, **arguments: Any) -> Any:
        return JOBS[job].send(**arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        message = JOBS[job].message
        return [broker.enqueue(message(**each)) for each in batch]

    async def result(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=60_000)

    async def unfinished(self) -> int:
        return int(self.redis.hlen("dramatiq:default.msgs"))


if __name__ == "__main__":
    serve(DramatiqDriver())
