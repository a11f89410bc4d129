"""Workspaces on real workers: approval by a person, one folder a session, undeclared access."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from skillfleet.contracts import WaitKind
from skillfleet.errors import RunFailed
from skillfleet_ledger.keys import Keyspace
from skillfleet_producer import Fleet, RunHandle
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until


@pytest.fixture(params=POOL_FORMS)
def fleet(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    """A producer, with a worker that parks waiting runs at once."""
    monkeypatch.setenv("SKILLFLEET_WORKSPACE", "directory")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE_DIRECTORY", str(tmp_path))
    with (
        running_server() as server,
        FleetWorker(
            server,
            "tests.worker.filing",
            pool=request.param,
        ),
        Fleet(server.producer_url) as fleet,
    ):
        yield fleet


def test_an_approved_change_lands_in_the_workspace_of_the_session(fleet: Fleet) -> None:
    found = []
    fleet.session("two").workspace.put("notes.txt", b"from the producer, ")
    for session, line in (("one", "a"), ("two", "b"), ("one", "c")):
        run = fleet.session(session).enqueue("filing.append", {"line": line})
        wait_until(lambda run=run: run.waits())  # type: ignore[misc]
        assert [wait.kind for wait in run.waits()] == [WaitKind.GRANT]
        run.answer(value=True)
        found.append(run.result(timeout=30))
    assert found == ["a", "from the producer, b", "ac"]
    assert fleet.session("one").workspace.get("notes.txt") == b"ac"
    assert fleet.session("two").workspace.get("notes.txt") == b"from the producer, b"


BEFORE = {"a.txt": b"one", "b.txt": b"two"}
AFTER = {"a.txt": b"ONE", "deep/c.txt": b"new"}


def put_files(fleet: Fleet, session: str) -> None:
    for path, data in BEFORE.items():
        fleet.session(session).workspace.put(path, data)


def files_of(fleet: Fleet, session: str) -> dict[str, bytes]:
    workspace = fleet.session(session).workspace
    return {each.path: workspace.get(each.path) for each in workspace.list()}


def staged(fleet: Fleet, session: str, gate: Path) -> RunHandle:
    """Return a run that has staged its changes and waits at the gate."""
    put_files(fleet, session)
    run = fleet.session(session).enqueue("filing.edit", {"gate": str(gate)})
    next(event for event in run.events(timeout=30) if event.payload.get("message") == "staged")
    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with workspaces, of the test's producer and workers."""
    monkeypatch.setenv("SKILLFLEET_WORKSPACE", "directory")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE_DIRECTORY", str(tmp_path / "workspaces"))
    return tmp_path


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_a_worker_killed_between_patches_and_commit_changes_no_patch(
    valkey: ValkeyServer, folder: Path, pool: str
) -> None:
    def worker() -> FleetWorker:
        return FleetWorker(valkey, "tests.worker.filing", pool=pool, lease_seconds=1)

    with Fleet(valkey.producer_url) as fleet:
        with worker() as killed:
            run = staged(fleet, "killed", folder / "gate")
            assert files_of(fleet, "killed") == BEFORE
            killed.kill()
        with worker():
            found = run.result(timeout=60)
            put_files(fleet, "whole")
            expected = fleet.session("whole").enqueue("filing.edit").result(timeout=30)
        assert found["attempt"] == 2
        staged_before = [["a.txt", "update"], ["b.txt", "delete"], ["deep/c.txt", "create"]]
        assert found["found"] == staged_before
        assert found["patches"] == expected["patches"]
        assert files_of(fleet, "killed") == files_of(fleet, "whole") == AFTER


def test_an_attempt_that_lost_its_lease_commits_nothing(valkey: ValkeyServer, folder: Path) -> None:
    gate = folder / "gate"
    with (
        FleetWorker(valkey, "tests.worker.filing"),
        Fleet(valkey.producer_url) as fleet,
        valkey.client() as client,
    ):
        run = staged(fleet, "lost", gate)
        assert client.hincrby(f"{Keyspace().prefix(run.id)}run:{run.id}", "token", 1) > 1
        gate.touch()
        wait_until(gate.read_text, what="the commit to be refused")
        assert files_of(fleet, "lost") == BEFORE


def test_a_starting_worker_removes_what_ended_runs_have_left(
    valkey: ValkeyServer, folder: Path
) -> None:
    directory = folder / "workspaces"
    with Fleet(valkey.producer_url) as fleet:
        for session in ("unknown", "used"):
            put_files(fleet, session)
        old = time.time() - 90 * 86_400
        for name in directory.glob("*/beside/name"):
            os.utime(name, (old, old))
        with FleetWorker(valkey, "tests.worker.filing") as worker:
            wait_until(lambda: len(list(directory.glob("*/beside"))) == 0, what="both to go")
            run = staged(fleet, "used", folder / "gate")
            worker.kill()
            run.cancel()
        for name in directory.glob("*/beside/name"):
            os.utime(name, (old, old))
        (directory / ".sweep").unlink()
        with FleetWorker(valkey, "tests.worker.filing", lease_seconds=1):
            wait_until(lambda: run.status().state.terminal, what="the run to be cancelled")
            with suppress(FileNotFoundError):
                (directory / ".sweep").unlink()
            wait_until(
                lambda: not list(directory.glob("*/beside/state/*/*")), what="its overlay to go"
            )
            assert files_of(fleet, "used") == BEFORE


def test_a_refusal_and_undeclared_access_fail_the_run(fleet: Fleet, tmp_path: Path) -> None:
    refused = fleet.enqueue("filing.append", {"line": "a"})
    wait_until(refused.waits)
    refused.answer(value=False)
    for run in (refused, fleet.enqueue("filing.undeclared")):
        with pytest.raises(RunFailed) as failed:
            run.result(timeout=30)
        assert failed.value.code == "workspace_denied"
    assert not list(tmp_path.glob("*/files/*"))
