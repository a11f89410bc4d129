"""huey's producer."""

from typing import Any

from benchmarks.peers.huey.worker import HUEY, JOBS
from benchmarks.peers.protocol import Driver, serve


class HueyDriver(Driver):
    """A call of the task and `Result.get`; a batch enqueues prepared tasks."""

    def __init__(self) -> None:
        super().__init__()
        self._open = 0

    def worker(self, concurrency: int) -> list[str]:
        options = ["-k", "thread", "-w", str(concurrency), "-n", "-q"]
        return ["-m", "huey.bin.huey_consumer", "benchmarks.peers.huey.worker.HUEY", *options]

    async def submit(self, job: str, **arguments: Any) -> Any:
        self._open += 1
        return JOBS[job](**arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        self._open += len(batch)
        prepared = JOBS[job].s
        return [HUEY.enqueue(prepared(**each)) for each in batch]

    async def result(self, handle: Any) -> Any:
        value = handle.get(blocking=True, timeout=180)  # takes the result out of its hash
        self._open -= 1
        return value

    async def unfinished(self) -> int:
        return self._open - int(self.redis.hlen("huey.results.bench"))


if __name__ == "__main__":
    serve(HueyDriver())
