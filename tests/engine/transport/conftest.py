"""Readers and workers that are closed whatever happens."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.transport.readers import ENGINE, Reader
from tests.engine.workers import Worker
from tests.support.valkey import ValkeyServer

StartReader = Callable[..., Reader]
StartWorker = Callable[..., Worker]


@pytest.fixture
def start_reader(valkey: ValkeyServer) -> Iterator[StartReader]:
    """Starts readers; on the shared server unless another URL is given."""
    readers: list[Reader] = []

    def start(*names: str, url: str | None = None, **options: Any) -> Reader:
        readers.append(Reader(url or valkey.url, *names, **options))
        return readers[-1]

    try:
        yield start
    finally:
        for reader in readers:
            reader.close()


@pytest.fixture
def start_worker(server: ValkeyServer, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers on `server`, with the engine's transport unless another URL is given."""
    workers: list[Worker] = []

    def start(
        pool: str = "loop", concurrency: int = 10, url: str | None = None, **settings: Any
    ) -> Worker:
        folder = tmp_path / str(len(workers))
        folder.mkdir()
        options = {"broker_transport": ENGINE, "task_acks_late": True} | settings
        workers.append(Worker(url or server.url, folder, pool, concurrency, **options))
        return workers[-1].wait_ready()

    try:
        yield start
    finally:
        for worker in workers:
            worker.close()
