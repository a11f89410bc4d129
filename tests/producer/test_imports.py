"""The imports of a producer, which runs inside other services."""

import subprocess
import sys

from tests.support.valkey import ValkeyServer

ENQUEUES = """
import asyncio, sys
from skillfleet_producer import AsyncFleet

async def main(url):
    async with AsyncFleet(url) as fleet:
        run = await fleet.enqueue("somebody.reads", {"text": "x", "number": 1})
        await run.status()
        reading = asyncio.create_task(anext(aiter(run.events())))
        await asyncio.sleep(0)
        await run.cancel()
        print((await reading).kind)

asyncio.run(main(sys.argv[1]))
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_a_producer_on_redis_does_its_work_without_heavy_libraries(valkey: ValkeyServer) -> None:
    said = subprocess.run(
        [sys.executable, "-c", ENQUEUES, valkey.url], check=True, capture_output=True, text=True
    ).stdout
    kind, modules = said.splitlines()
    assert kind == "state"
    loaded = set(modules.split())
    assert "skillfleet_producer" in loaded
    heavy = {"celery", "kombu", "redis", "cryptography", "jwt", "jsonschema_rs"}
    assert loaded & heavy == set()
