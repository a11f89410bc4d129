"""The jobs of the systems that run coroutines. Each returns something: a result is kept."""

import asyncio
import time
from functools import cache

from redis.asyncio import Redis

from benchmarks.peers.blocking import TEXT, URL

_running: list[str] = []


@cache
def client() -> Redis:
    """This process's own client."""
    return Redis.from_url(URL)


async def noop(number: int, text: str) -> int:
    """Do nothing."""
    del text
    return number


async def sleep(seconds: float) -> float:
    """Await."""
    await asyncio.sleep(seconds)
    return seconds


async def stream(mark: str, count: int) -> int:
    """Append events of 50 characters, each XADD awaited; the first has the time."""
    connection = client()
    await connection.xadd(mark, {"text": str(time.time()).ljust(TEXT)})
    for _ in range(count - 1):
        await connection.xadd(mark, {"text": "." * TEXT})
    return count


async def hold(mark: str, count: int, seconds: float) -> int:
    """Occupy a slot; the last of `count` jobs of this process says that all run."""
    _running.append(mark)
    if len(_running) == count:
        await client().set(mark, 1)
    await asyncio.sleep(seconds)
    return count


async def wait(mark: str) -> int:
    """Wait to be cancelled, and note when that was seen."""
    await client().set(f"{mark}:started", 1)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen = time.time()
        await client().set(f"{mark}:seen", seen)
        raise
    return 0
