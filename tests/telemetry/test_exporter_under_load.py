"""The exporter's numbers equal the ledger's at any moment of a busy fleet, in every format."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import redis

from skillfleet_producer import Fleet
from tests.support.acl import EXPORTER
from tests.support.fleet import FleetWorker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.telemetry.scraping import get, scrape

PREFIX = "{skillfleet:0}:"
QUEUES = ("celery", "waiting", "parked")
MOMENTS = 8


@dataclass
class Truth:
    """One queue's runs, counted one by one from their records."""

    queued: int = 0
    running: int = 0
    delayed: int = 0
    published: list[int] = field(default_factory=list)


def records(client: redis.Redis) -> list[dict[bytes, bytes]]:
    found: Any = [client.hgetall(key) for key in sorted(client.scan_iter(f"{PREFIX}run:*", 1000))]
    return list(found)


def truth(found: list[dict[bytes, bytes]]) -> dict[str, Truth]:
    """Return the counts of the records, by queue. Delays of this test never end."""
    counts = {queue: Truth() for queue in QUEUES}
    for record in found:
        count = counts[record[b"queue"].decode()]
        if record[b"state"] == b"running":
            count.running += 1
        elif record[b"state"] == b"queued" and b"due" in record:
            count.delayed += 1
        elif record[b"state"] == b"queued":
            count.queued += 1
            count.published.append(int(record[b"published"]))
    return counts


class Load:
    """A producer that keeps enqueuing runs of up to a second, except during `pause`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._goes = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._enqueue)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def pause(self) -> threading.Lock:
        """Return the lock that stops enqueuing while it is held."""
        return self._goes

    def _enqueue(self) -> None:
        for n in itertools.count():
            if self._ended.wait(0.02):
                return
            with self._goes:
                seconds = (n * 37 % 20) / 20
                runs = [{"seconds": seconds}] * 5
                self._fleet.enqueue_many("kit.sleep", runs, queue=QUEUES[n % 2], priority=n % 10)
                if n % 10 == 0:
                    self._fleet.enqueue("kit.sleep", runs[0], queue="parked", delay=3000)


@contextmanager
def exporting(server: ValkeyServer) -> Iterator[int]:
    """Yield the port of an exporter that uses its own Redis user."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "skillfleet_cli", "exporter", "--port", str(port)],
        env=os.environ | {"SKILLFLEET_REDIS_URL": server.url_of(EXPORTER)},
    )
    try:
        wait_until(lambda: get(port, "/readyz")[0] == 200, 60, "the exporter")
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def stopped(workers: list[FleetWorker], client: redis.Redis) -> Iterator[list[dict[bytes, bytes]]]:
    """Stop the workers for much less than a lease, and yield the records of that moment."""
    for worker in workers:
        worker.signal_all(signal.SIGSTOP)
    try:
        previous: list[dict[bytes, bytes]] = []

        def settled() -> bool:
            nonlocal previous
            before, previous = previous, records(client)
            return before == previous

        wait_until(settled, what="the last writes to arrive")
        yield previous
    finally:
        for worker in workers:
            worker.signal_all(signal.SIGCONT)


def now_ms(client: redis.Redis) -> float:
    seconds, micros = client.time()
    return float(seconds * 1000 + micros / 1000)


def compare(port: int, client: redis.Redis, expected: dict[str, Truth]) -> None:
    """Assert that every format has the counts of the records."""
    before = now_ms(client)
    queues = {stats["queue"]: stats for stats in json.loads(get(port, "/queues")[1])}
    names = "&".join(f"queue={queue}" for queue in QUEUES)
    demand = json.loads(get(port, f"/demand?{names}")[1])
    samples = scrape(port)
    after = now_ms(client)
    for queue, count in expected.items():
        stats = queues.get(queue, {"queued": 0, "running": 0, "delayed": 0})
        one = json.loads(get(port, f"/queues/{queue}")[1])
        for name in ("queued", "running", "delayed"):
            values = (stats[name], one[name], samples.sum(f"skillfleet_queue_{name}", queue=queue))
            assert values == (getattr(count, name),) * 3, (queue, name)
        if count.published:
            first = min(count.published)
            for age in (
                stats["oldest_age_seconds"],
                samples.sum("skillfleet_queue_oldest_age_seconds", queue=queue),
            ):
                assert before - first <= age * 1000 + 1
                assert age * 1000 <= after - first + 1
    assert demand["demand"] == sum(count.queued + count.running for count in expected.values())
    assert samples.sum("skillfleet_workers") == 2


def test_the_numbers_are_those_of_the_records_while_workers_run(server: ValkeyServer) -> None:
    seen: list[dict[str, Truth]] = []
    with (
        FleetWorker(server, "tests.worker.kit", concurrency=10, options=("-Q", "celery")) as first,
        FleetWorker(server, "tests.worker.kit", concurrency=10) as second,
        exporting(server) as port,
        Fleet(server.producer_url) as fleet,
        server.client() as client,
        Load(fleet) as load,
    ):
        finished = 0
        for _ in range(MOMENTS):
            target = finished + 30
            wait_until(partial(have_ended, client, target), 60, "runs to end")
            finished = ended(client)
            with load.pause(), stopped([first, second], client) as found:
                expected = truth(found)
                compare(port, client, expected)
                seen.append(expected)
    # The compared moments were different enough.
    for name in ("queued", "running", "delayed"):
        assert sum(getattr(moment[queue], name) for moment in seen for queue in QUEUES) > MOMENTS
    assert len({str(moment) for moment in seen}) == MOMENTS


def have_ended(client: redis.Redis, number: int) -> bool:
    return ended(client) >= number


def ended(client: redis.Redis) -> int:
    """Return the number of runs that have ended."""
    return int(client.zcard(f"{PREFIX}expiring"))
