"""`python -m benchmarks.durable`: the cost of parked runs and of steps.

One event-loop worker in its default configuration and one server as the chart sets it up. Parked
runs: their memory in Redis and in the worker, and the time from an answer to the handler that
executes with it. Steps: processor time of the worker and commands of Redis for each.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import redis
import typer
from rich.console import Console

from benchmarks.machine import cpu_seconds, describe, resident_mib
from benchmarks.systems import KINDS
from skillfleet_producer import AsyncFleet
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until_async

console = Console()
_PARKED = "{skillfleet:0}:parked"
_BATCH = 5_000
_READINGS = 10


@dataclass(frozen=True)
class Memory:
    """What a worker at rest holds."""

    mib: float
    """Resident memory."""
    blocks: float
    """Blocks that Python's objects have allocated: one at least for each object."""


@dataclass(frozen=True)
class Parked:
    """What parked runs cost."""

    bytes_a_run: float
    worker_mib: float
    """What the worker's resident memory has grown by over the second half of the runs."""
    blocks_a_run: float
    """The same for blocks of Python's objects, for each run."""
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Steps:
    """What one step costs: milliseconds of the worker's processor time, commands of Redis."""

    cpu_ms: float
    commands: float


def main(
    parked: Annotated[int, typer.Option(min=10_000, help="Parked runs.")] = 100_000,
    answers: Annotated[int, typer.Option(min=1, help="Answers that are timed.")] = 1_000,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a run.")] = 2_000,
) -> None:
    """Measure and print."""
    console.print(describe())
    server = ValkeyServer(*KINDS["skillfleet"].server)
    try:
        server.start()
        with worker(server.url, {}) as pid:
            console.print(asyncio.run(measure_steps(server, pid, steps)))
        with worker(server.url, {"SKILLFLEET_PARK_SECONDS": "0"}) as pid:
            console.print(asyncio.run(measure_parked(server, pid, parked, answers)))
    finally:
        server.close()


async def measure_steps(server: ValkeyServer, pid: int, count: int) -> Steps:
    """Run `count` steps in one run, beside the same run without steps."""
    with server.client() as client:
        async with AsyncFleet(server.url) as fleet:
            await (await fleet.enqueue("durable.steps", {"count": 10})).result(timeout=60)
            used, commands = cpu_seconds(pid), _commands(client)
            await (await fleet.enqueue("durable.steps", {"count": 0})).result(timeout=60)
            used_empty, commands_empty = cpu_seconds(pid) - used, _commands(client) - commands
            used, commands = cpu_seconds(pid), _commands(client)
            await (await fleet.enqueue("durable.steps", {"count": count})).result(timeout=300)
            spent = cpu_seconds(pid) - used - used_empty
            return Steps(
                spent / count * 1000,
                (_commands(client) - commands - commands_empty) / count,
            )


async def measure_parked(server: ValkeyServer, pid: int, count: int, answers: int) -> Parked:
    """Park `count` runs, then answer some of them, one after the other."""
    with server.client() as client:
        async with AsyncFleet(server.url) as fleet:
            warm = await fleet.enqueue("durable.ask")
            await _until_parked(client, 1)
            await warm.answer(value=True)
            await warm.result(timeout=60)
            used = client.info("memory")["used_memory"]
            handles = await _park(client, fleet, count // 2)
            # What as many handlers at once as the worker executes take stays with its process:
            # it is taken by the first half, memory for parked runs would be taken by both.
            before = await _at_rest(fleet, pid)
            handles += await _park(client, fleet, count - len(handles))
            used = client.info("memory")["used_memory"] - used
            after = await _at_rest(fleet, pid)
            # The same runs each time.
            chosen = random.Random(7).sample(handles, min(answers, count))  # noqa: S311
            times = [await _answered(handle) for handle in chosen]
    return Parked(
        used / count,
        after.mib - before.mib,
        (after.blocks - before.blocks) / (count / 2),
        statistics.median(times),
        statistics.quantiles(times, n=100)[98],
    )


async def _park(client: redis.Redis, fleet: AsyncFleet, count: int) -> list[Any]:
    """Enqueue `count` runs in batches and wait until they are parked."""
    already = int(client.zcard(_PARKED))
    handles: list[Any] = []
    while len(handles) < count:
        size = min(_BATCH, count - len(handles))
        handles += await fleet.enqueue_many("durable.ask", [{}] * size)
        await _until_parked(client, already + len(handles))
    return handles


async def _at_rest(fleet: AsyncFleet, pid: int) -> Memory:
    """Read the worker's memory in use: the lowest of several readings, as attempts still end."""
    readings = []
    for _ in range(_READINGS):
        blocks = await (await fleet.enqueue("durable.free")).result(timeout=60)
        readings.append((resident_mib(pid), blocks))
        await asyncio.sleep(1)
    return Memory(*(min(each) for each in zip(*readings, strict=True)))


async def _answered(handle: Any) -> float:
    """Answer a run; return the milliseconds until its handler executed with the answer."""
    began = time.time()
    await handle.answer(value=True)
    resumed: float = await handle.result(timeout=60)
    return (resumed - began) * 1000


async def _until_parked(client: redis.Redis, count: int) -> None:
    async def are_parked() -> bool:
        return int(client.zcard(_PARKED)) >= count

    await wait_until_async(are_parked, 300, f"{count} parked runs")


def _commands(client: redis.Redis) -> int:
    """Return how many commands the server has executed so far, those in scripts included."""
    stats: Mapping[str, Any] = client.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")


@contextmanager
def worker(url: str, settings: Mapping[str, str]) -> Iterator[int]:
    """Run a worker in its default configuration; its log goes into a pipe that is read."""
    command = (sys.executable, "-m", "skillfleet_cli", "worker", "benchmarks.durable_skills")
    process = subprocess.Popen(
        [*command, "--concurrency", "500"],
        env=os.environ | {"SKILLFLEET_REDIS_URL": url, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        reader.wait()


if __name__ == "__main__":
    typer.run(main)
