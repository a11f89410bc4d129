"""Workspaces on real workers: approval by a person, one folder a session, undeclared access."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet.contracts import WaitKind
from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import running_server
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


def test_a_refusal_and_undeclared_access_fail_the_run(fleet: Fleet, tmp_path: Path) -> None:
    refused = fleet.enqueue("filing.append", {"line": "a"})
    wait_until(refused.waits)
    refused.answer(value=False)
    for run in (refused, fleet.enqueue("filing.undeclared")):
        with pytest.raises(RunFailed) as failed:
            run.result(timeout=30)
        assert failed.value.code == "workspace_denied"
    assert not list(tmp_path.glob("*/files/*"))
