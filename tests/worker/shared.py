"""Fixtures and helpers that the tests of the worker and the producer share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from skillfleet.contracts import RunState, RunStatus
from skillfleet.testing.conformance.run_context import SECRETS
from skillfleet_auth.signing import write_new_answer_key
from skillfleet_producer import Fleet, RunHandle
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

StartWorker = Callable[..., FleetWorker]
MODULES = (
    "tests.worker.kit,tests.worker.ends,tests.worker.durable_skills,"
    "skillfleet.testing.conformance.run_context"
)


@dataclass(frozen=True)
class Shared:
    """One server with one worker, and a producer."""

    server: ValkeyServer
    worker: FleetWorker
    fleet: Fleet

    @classmethod
    @contextmanager
    def started(cls, pool: str) -> "Iterator[Shared]":
        """Start all three; the worker's limits are small, so that tests meet them."""
        sizes = {"loop": 600, "prefork": 4, "threads": 30}
        with (
            TemporaryDirectory() as folder,
            running_server() as server,
            FleetWorker(
                server,
                MODULES,
                pool=pool,
                concurrency=sizes[pool],
                cancel_grace_seconds=0.2,
                abandon_seconds=0.6,
                reap_seconds=0.2,
                lease_seconds=6,
                park_seconds=0.3,
                secret_conformance_token=SECRETS["conformance-token"],
                answer_keys=write_new_answer_key(Path(folder), "answers"),
            ) as worker,
            Fleet(server.producer_url) as fleet,
        ):
            yield cls(server, worker, fleet)


def wait_state(run: RunHandle, *states: RunState, timeout: float = 20.0) -> RunStatus:
    """Wait until the run is in one of the states (default: running)."""
    wanted = states or (RunState.RUNNING,)

    def reached() -> RunStatus | None:
        status = run.status()
        return status if status.state in wanted else None

    status = wait_until(reached, timeout, f"{run} to be {wanted}")
    assert status is not None
    return status


def wait_kind(run: RunHandle, kind: str, timeout: float = 20.0) -> None:
    """Wait until the run has emitted an event of a kind."""
    for event in run.events(timeout=timeout):
        if event.kind == kind:
            return
    raise AssertionError(f"{run} ended without an event {kind!r}")
