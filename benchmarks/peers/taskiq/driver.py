"""taskiq's producer."""

import asyncio
from typing import Any

from benchmarks.peers.protocol import Driver, serve
from benchmarks.peers.taskiq.worker import JOBS, broker

_POLL = 0.005  # its default of 0.2 s would be all that one measures


class TaskiqDriver(Driver):
    """`kiq` and `wait_result`; a batch gathers."""

    async def open(self) -> None:
        await broker.startup()

    def worker(self, concurrency: int) -> list[str]:
        module = "benchmarks.peers.taskiq.worker:broker"
        slots = ["--workers", "1", "--max-async-tasks", str(concurrency)]
        return ["-m", "taskiq", "worker", module, *slots, "--log-level", "WARNING"]

    async def submit(self, job: str, **arguments: Any) -> Any:
        return await JOBS[job].kiq(**arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        return await asyncio.gather(*(JOBS[job].kiq(**each) for each in batch))

    async def result(self, handle: Any) -> Any:
        found = await handle.wait_result(check_interval=_POLL, timeout=60)
        return found.return_value

    async def unfinished(self) -> int:
        groups: Any = self.redis.xinfo_groups("taskiq")
        return int(groups[0]["pending"] + groups[0]["lag"])


if __name__ == "__main__":
    serve(TaskiqDriver())
