"""Workspaces in an object store on real workers that share no folder but its."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skillfleet.errors import RunFailed
from skillfleet_ledger import Settings
from skillfleet_producer import Fleet
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


@dataclass
class Site:
    """A server, an object store, and a producer with a local folder of its own."""

    server: ValkeyServer
    fleet: Fleet
    folder: Path

    def worker(self, name: str, pool: str = "loop") -> FleetWorker:
        """A worker with a local folder of its own."""
        return FleetWorker(
            self.server,
            "tests.worker.filing",
            pool=pool,
            lease_seconds=1,
            reap_seconds=0.2,
            workspace="object_store",
            workspace_cache=self.folder / name,
            artifacts_url=self.url,
        )

    @property
    def url(self) -> str:
        return f"file://{self.folder}/objects"


@pytest.fixture
def site(server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("SKILLFLEET_ARTIFACTS_URL", f"file://{tmp_path}/objects")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE_CACHE", f"{tmp_path}/producer")
    settings = Settings.load(redis_url=server.producer_url, workspace="object_store")
    with Fleet(settings=settings) as fleet:
        yield Site(server, fleet, tmp_path)


def test_a_draft_of_a_killed_worker_goes_on_on_another_one_as_if_nothing_had_happened(
    site: Site,
) -> None:
    go_on = site.folder / "go on"
    sessions = [site.fleet.session(name) for name in ("whole", "killed")]
    for session in sessions:
        session.workspace.put("notes.txt", b"one")
        session.workspace.put("old.txt", b"old")
    with site.worker("a") as worker:
        killed = sessions[1].enqueue("filing.draft", {"until": str(go_on)})
        wait_until(lambda: len(killed.steps()) == 2, what="two steps")
        worker.kill()
    go_on.touch()
    with site.worker("b"):
        whole = sessions[0].enqueue("filing.draft", {"until": str(go_on)})
        patch = whole.result(timeout=30)
        assert [(path, operation) for path, operation, _ in patch] == [
            ("folder/new.txt", "create"),
            ("notes.txt", "update"),
            ("old.txt", "delete"),
        ]
        assert killed.result(timeout=30) == patch
        assert killed.status().attempt == 2
    for session in sessions:
        assert [info.path for info in session.workspace.list()] == ["notes.txt", "old.txt"]


@pytest.mark.parametrize("pool", POOL_FORMS)
def test_direct_writes_are_there_with_the_record_of_their_step_and_with_the_end(
    site: Site, pool: str
) -> None:
    go_on = site.folder / "go on"
    session = site.fleet.session("direct")
    with site.worker("a", pool):
        run = session.enqueue("filing.direct", {"until": str(go_on)})
        wait_until(lambda: len(run.steps()) == 1, what="the step")
        assert session.workspace.get("step.txt") == b"in a step"
        go_on.touch()
        assert run.result(timeout=30) == "written"
        assert session.workspace.get("end.txt") == b"at the end"
        session.workspace.put("other.txt", b"taken")
    assert len(session.workspace.list()) == 3
    assert session.workspace.delete("other.txt")


def test_a_run_whose_last_writes_cannot_be_published_has_not_succeeded(site: Site) -> None:
    go_on, objects = site.folder / "go on", site.folder / "objects"
    with site.worker("a"):
        run = site.fleet.session("lost").enqueue("filing.direct", {"until": str(go_on)})
        wait_until(lambda: len(run.steps()) == 1, what="the step")
        objects.rename(site.folder / "moved")
        objects.write_text("no folder")
        go_on.touch()
        with pytest.raises(RunFailed) as failed:
            run.result(timeout=30)
        assert failed.value.code == "object_store"
