"""The jobs of the systems that run blocking functions. Each returns something: a result is kept."""

import os
import threading
import time
from functools import cache

import redis

URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
TEXT = 50

_lock = threading.Lock()
_held = 0


@cache
def client() -> redis.Redis:
    """This process's own client."""
    return redis.Redis.from_url(URL)


def noop(number: int, text: str) -> int:
    """Do nothing."""
    del text
    return number


def sleep(seconds: float) -> float:
    """Wait."""
    time.sleep(seconds)
    return seconds


def stream(mark: str, count: int) -> int:
    """Append events of 50 characters, one XADD after the other; the first has the time."""
    connection = client()
    connection.xadd(mark, {"text": str(time.time()).ljust(TEXT)})
    for _ in range(count - 1):
        connection.xadd(mark, {"text": "." * TEXT})
    return count


def hold(mark: str, count: int, seconds: float) -> int:
    """Occupy a slot; the last of `count` jobs of this process says that all run."""
    global _held  # noqa: PLW0603  # the slots of a process share nothing else
    with _lock:
        _held += 1
        if _held == count:
            client().set(mark, 1)
    time.sleep(seconds)
    return count
