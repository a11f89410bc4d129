"""Adapters of a third party: one file and an entry point each, like the fleet's own."""

import json
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from skillfleet.contracts import AgentCard, RunState
from skillfleet.errors import RunError
from skillfleet.ports.discovery import DiscoveryProvider
from skillfleet.ports.secrets import Secrets
from skillfleet.testing.conformance import DiscoverySuite, SecretsSuite
from skillfleet_producer import Fleet
from tests.adapters.acme import install, use_acme, write_cards
from tests.adapters.acme_adapters import RegistryProvider, VaultSecrets
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

QUICK: dict[str, Any] = {
    "lease_seconds": 3,
    "reap_seconds": 0.2,
    "cancel_grace_seconds": 0.1,
    "abandon_seconds": 0.2,
    "drain_seconds": 0,
}
StartAcme = Callable[..., FleetWorker]


class TestVault(SecretsSuite):
    def source(self, values: Mapping[str, str]) -> Secrets:
        file = Path(tempfile.mkdtemp()) / "vault.json"
        file.write_text(json.dumps(values))
        return VaultSecrets(file)

    def rotate(self, source: Secrets, name: str, value: str) -> None:
        assert isinstance(source, VaultSecrets)
        source._file.write_text(json.dumps({name: value}))


class TestRegistry(DiscoverySuite):
    @asynccontextmanager
    async def provider(self, cards: Sequence[AgentCard]) -> AsyncIterator[DiscoveryProvider]:
        with tempfile.TemporaryDirectory() as folder:
            write_cards(Path(folder), cards)
            yield RegistryProvider(Path(folder), "local")
            left = list(Path(folder).glob("sessions/*"))  # noqa: ASYNC240 - a local folder
            assert not left, "a session outlived its run"


@pytest.fixture
def start_acme(tmp_path: Path) -> Iterator[tuple[Fleet, StartAcme]]:
    """A function that starts workers with the adapters, whose folder is `tmp_path/acme`."""
    installed = install(tmp_path / "installed")
    workers: list[FleetWorker] = []
    with running_server() as server, Fleet(server.producer_url) as fleet:

        def start(pool: str = "loop") -> FleetWorker:
            worker = _worker(server, pool)
            workers.append(use_acme(worker, installed, tmp_path / "acme"))
            return worker.start()

        yield fleet, start
        for worker in workers:
            worker.close()


def _worker(server: ValkeyServer, pool: str) -> FleetWorker:
    return FleetWorker(server, "tests.adapters.registry_skills", pool=pool, **QUICK)


def _journal(tmp_path: Path) -> list[str]:
    file = tmp_path / "acme" / "journal"
    return file.read_text().splitlines() if file.exists() else []


def _sessions(tmp_path: Path) -> list[str]:
    """Return the names of the sessions that are open."""
    return [labels.parent.name for labels in (tmp_path / "acme" / "sessions").glob("*/labels")]


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_they_work_in_a_real_worker_and_close_what_a_run_opened(
    start_acme: tuple[Fleet, StartAcme], tmp_path: Path, pool: str
) -> None:
    fleet, start = start_acme
    start(pool)
    run = fleet.enqueue("registry.succeeds")
    result = run.result(timeout=30)
    assert result["key"] == [13, "ak"]
    assert result["agents"] == ["carpenter", "librarian", "librarian", "painter"]
    # Before the run's end, not some time after it.
    assert _journal(tmp_path) == [f"closed {run.id}"]
    assert _sessions(tmp_path) == []


def test_every_ending_of_an_attempt_closes_what_it_opened(
    start_acme: tuple[Fleet, StartAcme], tmp_path: Path
) -> None:
    fleet, start = start_acme
    start()
    failed, late = fleet.enqueue("registry.fails"), fleet.enqueue("registry.is_late")
    cancelled, resisting = fleet.enqueue("registry.waits"), fleet.enqueue("registry.resists")
    for run in (cancelled, resisting):
        wait_until(lambda run=run: run.id in _sessions(tmp_path), what="the session")  # type: ignore[misc]
        run.cancel()
    for run in (failed, late, cancelled, resisting):
        with pytest.raises(RunError):
            run.result(timeout=30)
    assert sorted(_journal(tmp_path)) == sorted(
        f"closed {run.id}" for run in (failed, late, cancelled, resisting)
    )


def test_a_drain_and_a_recycled_process_close_what_their_attempts_opened(
    start_acme: tuple[Fleet, StartAcme], tmp_path: Path
) -> None:
    fleet, start = start_acme
    worker = start()
    waiting = fleet.enqueue("registry.waits")
    wait_until(lambda: _sessions(tmp_path) == [waiting.id], what="the session of one run")
    # Once it blocks, no other run starts.
    blocking = fleet.enqueue("registry.blocks")
    wait_until(lambda: blocking.id in _sessions(tmp_path), what="both sessions")
    blocking.cancel()
    # Its neighbour was released by the watchdog, and started again.
    closed = {f"closed {run.id}" for run in (blocking, waiting)}
    wait_until(lambda: closed <= set(_journal(tmp_path)), 60, "the recycled process")
    with pytest.raises(RunError):
        blocking.result(timeout=30)
    wait_until(lambda: _sessions(tmp_path) == [waiting.id], 60, "the next attempt's session")
    worker.send_signal(signal.SIGTERM)
    worker.wait_end()
    assert _sessions(tmp_path) == []
    assert _journal(tmp_path).count(f"closed {waiting.id}") == 2
    assert waiting.status().state is RunState.QUEUED


def test_what_a_killed_worker_left_is_reaped_once_its_lease_is_lost(
    start_acme: tuple[Fleet, StartAcme], tmp_path: Path
) -> None:
    fleet, start = start_acme
    doomed = start()
    run = fleet.enqueue("registry.waits")
    wait_until(lambda: _sessions(tmp_path) == [run.id], what="the session")
    foreign = tmp_path / "acme" / "sessions" / "of-another-fleet"
    foreign.mkdir()
    labels = {"skillfleet.fleet": "another", "skillfleet.run": "r", "skillfleet.lease": "1"}
    (foreign / "labels").write_text(json.dumps(labels))
    doomed.kill()
    run.cancel()
    start()
    wait_until(lambda: f"reaped {run.id}" in _journal(tmp_path), 60, "the session to be reaped")
    assert _sessions(tmp_path) == ["of-another-fleet"]
