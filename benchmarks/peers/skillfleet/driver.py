"""skillfleet's producer: the asynchronous fleet, and the synchronous one for one workload."""

import asyncio
import os
import time
from typing import Any

from benchmarks.peers.blocking import URL
from benchmarks.peers.protocol import Driver, serve
from skillfleet_producer import AsyncFleet, Fleet

_OPEN = ("{skillfleet:0}:ready:celery:0", "{skillfleet:0}:leases")


class SkillfleetDriver(Driver):
    """`enqueue`, `enqueue_many`, `result`, `events`, `cancel`."""

    cancels_jobs = True
    reports_start = True

    async def open(self) -> None:
        self.fleet = AsyncFleet(URL)

    def worker(self, concurrency: int) -> list[str]:
        options = ["--concurrency", str(concurrency)]
        if os.environ.get("BENCH_VARIANT") == "quiet":
            options += ["--log-level", "warning"]
        return ["-m", "skillfleet_cli", "worker", "benchmarks.peers.skillfleet.worker", *options]

    async def submit(self, job: str, **arguments: Any) -> Any:
        return await self.fleet.enqueue(f"bench.{job}", arguments)

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        return await self.fleet.enqueue_many(f"bench.{job}", batch)

    async def result(self, handle: Any) -> Any:
        return await handle.result(timeout=60)

    async def unfinished(self) -> int:
        pipe = self.redis.pipeline(transaction=False)
        for key in _OPEN:
            pipe.zcard(key)
        return sum(pipe.execute())

    async def cancel(self, handle: Any) -> None:
        await handle.cancel("benchmark")

    async def do_submit_sync(self, count: int) -> dict[str, float]:
        """No-ops through the synchronous `Fleet`, one call each."""
        with Fleet(URL) as fleet:
            fleet.enqueue("bench.noop")  # its thread and connections
            began, used = time.perf_counter(), time.process_time()
            for number in range(count):
                fleet.enqueue("bench.noop", {"number": number, "text": "x"})
            spent = time.perf_counter() - began, time.process_time() - used
        return dict(zip(("seconds", "cpu"), spent, strict=True))

    async def do_streams(self, runs: int, count: int) -> float:
        """Seconds from the first run's first event to the last event at a live reader of each."""
        handles = await self.submit_many("stream", [{"count": count}] * runs)
        starts = await asyncio.gather(*(self._follow(handle, count) for handle in handles))
        return max(end for _, end in starts) - min(start for start, _ in starts)

    async def _follow(self, handle: Any, count: int) -> tuple[float, float]:
        seen, start, end = 0, 0.0, 0.0
        async for event in handle.events(timeout=60):
            if event.kind == "text_delta":
                start = start or float(event.payload["text"])
                seen, end = seen + 1, time.time()
        if seen != count:
            raise AssertionError(f"{seen} of {count} events arrived")
        return start, end

    async def do_artifact(self, mib: int) -> dict[str, float]:
        """Seconds to write an artifact inside a run, and to read it here."""
        run = await self.fleet.enqueue("bench.artifact", {"mib": mib})
        written = await run.result(timeout=120)
        began = time.perf_counter()
        if len(await run.read_artifact("blob")) != mib << 20:
            raise AssertionError("an artifact of another size")
        return {"write": written, "read": time.perf_counter() - began}


if __name__ == "__main__":
    serve(SkillfleetDriver())
