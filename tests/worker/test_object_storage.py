"""Workers with an object store: artifacts and recorded values, in every pool."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet_ledger import Settings
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import StartWorker

MEBIBYTE = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def reader(server: ValkeyServer, folder: Path) -> Iterator[Fleet]:
    """A producer that reads the object store."""
    settings = Settings.load(redis_url=server.producer_url, artifacts_url=f"file://{folder}")
    with Fleet(settings=settings) as fleet:
        yield fleet


def started(start_worker: StartWorker, folder: Path, pool: str) -> FleetWorker:
    url = f"file://{folder}"
    return start_worker("tests.worker.kit", pool=pool, artifacts_url=url, lease_seconds=1)


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_artifacts_and_values_go_to_the_object_store(
    start_worker: StartWorker, reader: Fleet, folder: Path, pool: str
) -> None:
    started(start_worker, folder, pool)
    run = reader.enqueue("kit.artifact", {"size": 3 * MEBIBYTE})
    assert run.result(timeout=30) == 3 * MEBIBYTE
    (info,) = run.artifacts()
    assert len(run.read_artifact(info.name)) == info.size_bytes == 3 * MEBIBYTE
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    assert file.stat().st_size == 3 * MEBIBYTE


def test_a_recorded_value_comes_back_from_the_object_store(
    start_worker: StartWorker, reader: Fleet, folder: Path, tmp_path: Path
) -> None:
    url, go_on = f"file://{folder}", tmp_path / "go on"
    start = {"artifacts_url": url, "lease_seconds": 1}
    worker = start_worker("tests.worker.durable_skills", **start)
    arguments = {"size": 2 * MEBIBYTE, "until": str(go_on)}
    run = reader.enqueue("durable.large_value", arguments)
    wait_until(lambda: len(run.steps()) == 1, what="the step")
    worker.kill()
    go_on.touch()
    start_worker("tests.worker.durable_skills", **start)
    assert run.result(timeout=60) == [2 * MEBIBYTE, 2]
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 1
    fork = run.fork()
    assert fork.result(timeout=60) == [2 * MEBIBYTE, 1]
