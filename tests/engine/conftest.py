"""Workers that several tests share, and workers of a single test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.workers import Worker
from tests.support.valkey import ValkeyServer

StartWorker = Callable[..., Worker]


@pytest.fixture(scope="session")
def shared_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Worker]]:
    """Return one worker for each pool, started at its first use, each on its own server."""
    servers: list[ValkeyServer] = []
    workers: dict[str, Worker] = {}

    def get(pool: str) -> Worker:
        if pool not in workers:
            servers.append(ValkeyServer().start())
            folder = tmp_path_factory.mktemp(pool)
            size = {"loop": 500, "threads": 8, "prefork": 4}[pool]
            workers[pool] = Worker(servers[-1].url, folder, pool, size).wait_ready()
        return workers[pool]

    try:
        yield get
    finally:
        for worker in workers.values():
            worker.close()
        for server in servers:
            server.close()


@pytest.fixture
def loop_worker(shared_workers: Callable[[str], Worker]) -> Worker:
    return shared_workers("loop")


@pytest.fixture
def start_worker(server: ValkeyServer, tmp_path: Path) -> Iterator[StartWorker]:
    """Return a function that starts workers of this test on `server`."""
    workers: list[Worker] = []

    def start(pool: str = "loop", concurrency: int = 10, **settings: Any) -> Worker:
        folder = tmp_path / str(len(workers))
        folder.mkdir()
        workers.append(Worker(server.url, folder, pool, concurrency, **settings))
        return workers[-1].wait_ready()

    try:
        yield start
    finally:
        for worker in workers:
            worker.close()
