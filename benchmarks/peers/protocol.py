"""Protocol of a driver: JSON lines on stdin and stdout, `{"do": NAME, ...}` to `{"ok": ...}`.

The harness imports no peer: it starts a driver with the peer's own Python and asks it to submit,
to wait and to measure. A peer derives `Driver` and calls `serve`.
"""

import asyncio
import json
import os
import random
import sys
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from typing import Any, TextIO, final

import redis

from benchmarks.peers.blocking import URL

_PATIENCE = 300.0
_LOOK = 0.02


class Driver(ABC):
    """A producer of one system. Blocking clients block: nothing else runs in a driver."""

    cancels_jobs = False
    reports_start = False
    """True when its worker has the job `started`, which returns the time of its start."""

    def __init__(self) -> None:
        self.redis = redis.Redis.from_url(URL)
        self._last: Any = None
        self._handles: list[Any] = []

    async def open(self) -> None:  # noqa: B027  # most connect with their first job
        """Connect; the worker runs already."""

    @abstractmethod
    def worker(self, concurrency: int) -> list[str]:
        """The arguments with which the peer's Python starts its worker."""

    @abstractmethod
    async def submit(self, job: str, **arguments: Any) -> Any:
        """Submit one job as the peer's documentation shows; returns its handle."""

    async def submit_many(self, job: str, batch: list[dict[str, Any]]) -> list[Any]:
        """Submit jobs in the fastest documented way."""
        return [await self.submit(job, **arguments) for arguments in batch]

    @abstractmethod
    async def result(self, handle: Any) -> Any:
        """Wait for a job's result."""

    @abstractmethod
    async def unfinished(self) -> int:
        """Return the number of jobs without a result, in one or two commands."""

    async def cancel(self, handle: Any) -> None:
        """Cancel a running job."""
        raise NotImplementedError(f"{type(self).__name__} cannot cancel {handle}")

    # --- what the harness asks for ------------------------------------------------------------

    @final
    async def do_worker(self, concurrency: int) -> list[str]:
        """Return the command that starts the worker."""
        return self.worker(concurrency)

    async def do_warm(self, count: int = 20) -> None:
        """Return when the worker has executed something."""
        await self.open()
        for number in range(count):
            await self.result(await self.submit("noop", number=number, text="x"))

    async def do_submit(self, count: int) -> dict[str, float]:
        """No-ops, one call each."""
        began, used = time.perf_counter(), time.process_time()
        for number in range(count):
            self._last = await self.submit("noop", number=number, text="x")
        return _spent(began, used)

    async def do_submit_many(self, count: int) -> dict[str, float]:
        """No-ops, in the fastest way."""
        batch = [{"number": number, "text": "x"} for number in range(count)]
        began, used = time.perf_counter(), time.process_time()
        self._last = (await self.submit_many("noop", batch))[-1]
        return _spent(began, used)

    async def do_drain(self) -> int:
        """Wait until all jobs have results; returns how often it looked."""
        looks, end = 1, time.monotonic() + _PATIENCE
        while await self.unfinished() > 0:
            looks += 1
            if time.monotonic() > end:
                raise TimeoutError(f"{await self.unfinished()} jobs are still unfinished")
            await asyncio.sleep(_LOOK)
        if self._last is not None:
            await self.result(self._last)
            self._last = None
        return looks

    async def do_prepare(self, count: int) -> None:
        """Submit no-ops in the fastest way and keep their handles."""
        batch = [{"number": number, "text": "x"} for number in range(count)]
        self._handles = await self.submit_many("noop", batch)

    async def do_fetch(self) -> None:
        """Wait for the result of each prepared job, one call each."""
        for number, handle in enumerate(self._handles):
            if await self.result(handle) != number:
                raise AssertionError("a result of another job")
        self._handles = []

    async def do_latency(self, count: int) -> list[float]:
        """Seconds from each submit to its result, one job at a time."""
        found = []
        for number in range(count):
            began = time.perf_counter()
            if await self.result(await self.submit("noop", number=number, text="x")) != number:
                raise AssertionError("a result of another job")
            found.append(time.perf_counter() - began)
        return found

    async def do_starts(self, count: int) -> list[float] | None:
        """Seconds from each submit to the start of its job, one at a time; None if not known."""
        if not self.reports_start:
            return None
        found = []
        for _ in range(count):
            began = time.time()
            found.append(await self.result(await self.submit("started")) - began)
        return found

    async def do_sleeps(self, count: int, seconds: float) -> float:
        """Seconds until that many sleeping jobs, submitted together, have results."""
        began = time.perf_counter()
        self._last = (await self.submit_many("sleep", [{"seconds": seconds}] * count))[-1]
        await self.do_drain()
        return time.perf_counter() - began

    async def do_hold(self, count: int, seconds: float, job: str = "hold") -> None:
        """Return when that many jobs run at once."""
        arguments = {"mark": "bench:held", "count": count, "seconds": seconds}
        await self.submit_many(job, [arguments] * count)
        await self._key("bench:held")

    async def do_streams(self, runs: int, count: int) -> float:
        """Seconds from the first job's first event to the last event at one live reader of all."""
        keys = [f"bench:stream:{uuid.uuid4()}" for _ in range(runs)]
        await self.submit_many("stream", [{"mark": key, "count": count} for key in keys])
        missing, starts = runs * count, []
        cursors: dict[Any, Any] = dict.fromkeys(keys, "0")
        while missing:
            found: Any = self.redis.xread(cursors, count=500, block=10_000)
            if not found:
                raise TimeoutError(f"{missing} events did not arrive")
            for key, entries in found:
                if cursors[key.decode()] == "0":
                    starts.append(float(entries[0][1][b"text"]))
                cursors[key.decode()] = entries[-1][0]
                missing -= len(entries)
        return time.time() - min(starts)

    async def do_cancels(self, count: int) -> list[float] | None:
        """Seconds from each cancellation until the running job saw it; None if it has none."""
        if not self.cancels_jobs:
            return None
        return [await self._cancelled(f"bench:wait:{number}") for number in range(count)]

    async def _cancelled(self, key: str) -> float:
        handle = await self.submit("wait", mark=key)
        await self._key(f"{key}:started")
        await asyncio.sleep(random.uniform(0, 0.5))  # noqa: S311  # not in step with a poller
        began = time.time()
        await self.cancel(handle)
        return float(await self._key(f"{key}:seen")) - began

    async def _key(self, key: str) -> bytes:
        end = time.monotonic() + 60
        while (value := self.redis.get(key)) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"{key} did not appear")
            await asyncio.sleep(0.01)
        return bytes(value)  # type: ignore[arg-type]


def _spent(began: float, used: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}


def serve(driver: Driver) -> None:
    """Answer until stdin ends. The output of the peer goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    asyncio.run(_serve(driver, answers))


async def _serve(driver: Driver, answers: TextIO) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        try:
            answer = {"ok": await getattr(driver, f"do_{asked.pop('do')}")(**asked)}
        except Exception:  # noqa: BLE001  # the harness raises it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
