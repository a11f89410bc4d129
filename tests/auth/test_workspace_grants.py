"""Attacks on access that one run hands over to another, through the files of real sessions."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from skillfleet.errors import RunFailed
from skillfleet_producer import Fleet, RunHandle
from tests.auth.keys import Keys
from tests.support.fleet import POOL_FORMS, FleetWorker
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

ADA, BOB = {"sub": "ada"}, {"sub": "bob"}
FILES = {"src/a": "a", "src/deep/b": "b", "src/.env": "KEY=1", "notes": "n"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKILLFLEET_WORKSPACE", "directory")
        patch.setenv("SKILLFLEET_WORKSPACE_DIRECTORY", str(folder))
        yield folder


@pytest.fixture(scope="module", params=POOL_FORMS)
def house(request: pytest.FixtureRequest, keys: Keys, folder: Path) -> Iterator[ValkeyServer]:
    """A server with a worker whose agents hand files to each other."""
    del folder
    options = keys.worker_settings() | {"reap_seconds": 0.2, "pool": request.param}
    with running_server() as server, FleetWorker(server, "tests.auth.sharing", **options):
        yield server


@pytest.fixture
def fleet(house: ValkeyServer, keys: Keys) -> Iterator[Fleet]:
    with Fleet(settings=keys.settings(house.producer_url, workspace="directory")) as fleet:
        yield fleet


@pytest.fixture
def session(fleet: Fleet, request: pytest.FixtureRequest) -> Any:
    """A session of Ada's with files."""
    session = fleet.session(request.node.name, auth=ADA)
    for path, text in FILES.items():
        session.workspace.put(path, text.encode())
    return session


def shares(session: Any, **args: Any) -> Any:
    return session.enqueue("sharing.shares", {"asked": {}} | args).result(timeout=30)


def delegates(session: Any, **asked: Any) -> str:
    run: RunHandle = session.enqueue("sharing.delegates", {"asked": asked})
    return str(run.result(timeout=30))


def refuses(run: RunHandle, why: str, code: str = "grant_invalid") -> None:
    with pytest.raises(RunFailed, match=why) as error:
        run.result(timeout=30)
    assert error.value.code == code


def test_a_called_run_reads_what_its_caller_hands_over(session: Any) -> None:
    asked = {"allow_patterns": ["src/**", "notes"], "deny_patterns": ["**/deep/**"]}
    assert shares(session, asked=asked) == {"notes": "n", "src/a": "a"}


def test_a_called_run_changes_files_below_the_outputs_only(session: Any) -> None:
    asked = {"mode": "read_write_overlay", "outputs_prefix": "out"}
    args = {"paths": ["out/x", "src/a", "output", "out/../notes", "out/.env"]}
    assert shares(session, asked=asked, skill="writes", args=args) == ["out/x"]
    found = {each.path for each in session.workspace.list()}
    assert found == {*FILES, "out/x"}
    assert session.workspace.get("src/a") == b"a"


def test_tricks_with_paths_open_nothing(session: Any, folder: Path) -> None:
    name = uuid4().hex
    session.workspace.put(name, b"")
    (marker,) = folder.glob(f"*/files/{name}")
    source = marker.with_name("src")
    (folder / "outside").write_text("outside")
    (source / "link").symlink_to(folder / "outside")
    (source / "up").symlink_to(source.parent)
    paths = [
        *("../outside", "src/../notes", "src/./a", "/src/a", f"{source}/a", "src//a", "src\\a"),
        *("SRC/a", "src/A", "src/a\0", "src/link", "src/up/notes", "src/.ENV", "src/.env", "notes"),
    ]
    asked = {"allow_patterns": ["src/**"]}
    found = shares(session, asked=asked, args={"paths": paths})
    assert set(found.values()) <= {"WorkspaceDenied", "FileNotFoundError"}, found
    assert shares(session, asked=asked) == {"src/a": "a", "src/deep/b": "b"}


def test_a_forged_grant_opens_nothing(session: Any) -> None:
    token = delegates(session, audience="sharing", allow_patterns=["notes"])
    header, claims, signature = token.split(".")
    wider = base64.urlsafe_b64decode(claims + "==").replace(b'"notes"', b'"**"')
    forged = base64.urlsafe_b64encode(wider).rstrip(b"=").decode()
    for wrong in (f"{header}.{forged}.{signature}", f"{header}.{claims}.{signature[:-8]}AAAAAAAA"):
        refuses(session.enqueue("using.reads", {"token": wrong}), "signature")


def test_a_grant_that_expires_ends_a_view_that_is_open(session: Any) -> None:
    args = {"asked": {"ttl_seconds": 2}, "skill": "reads_for_ever"}
    refuses(session.enqueue("sharing.shares", args), "expired")


def asking(session: Any, run: RunHandle) -> RunHandle:
    """The run that was called, once it asks."""
    (called,) = run.children()
    handle: RunHandle = session._fleet.run(called)
    wait_until(handle.waits)
    return handle


def test_a_revocation_ends_a_view_that_is_open(session: Any) -> None:
    run = session.enqueue("sharing.shares", {"asked": {}, "skill": "reads_again"})
    wait_until(run.children)
    called = asking(session, run)
    session.revoke_grants()
    called.answer(value=True, auth=ADA)
    refuses(run, "revoked")
    assert shares(session)["notes"] == "n"


@pytest.mark.parametrize(
    "asked",
    [{"mode": "read_write_direct"}, {"allow_patterns": ["../**"]}, {"outputs_prefix": "/etc"}],
)
def test_wider_access_is_not_delegated(session: Any, asked: dict[str, Any]) -> None:
    refuses(session.enqueue("sharing.delegates", {"asked": asked}), "refused")


def test_what_is_handed_on_is_within_every_link(session: Any) -> None:
    asked = {"allow_patterns": ["src/**"]}
    args = {"asked": {"allow_patterns": ["**/b", "notes"]}}
    assert shares(session, asked=asked, skill="hands_on", args=args) == {"src/deep/b": "b"}
    wider = {"asked": {"mode": "read_write_overlay"}}
    run = session.enqueue("sharing.shares", {"asked": asked, "skill": "hands_on", "args": wider})
    refuses(run, "wider")


def test_others_cannot_use_a_grant(fleet: Fleet, session: Any) -> None:
    mine = delegates(session)
    refuses(session.enqueue("sharing.installs", {"token": mine}), "another audience")
    for other, why in (
        (fleet.session("another session", auth=ADA), "another session"),
        (fleet.session(session.id, auth=BOB), "another session"),
    ):
        refuses(other.enqueue("using.reads", {"token": mine}), why)
    refuses(fleet.enqueue("using.reads", {"token": mine}, auth=ADA), "another session")
    found = session.enqueue("using.reads", {"token": mine}).result(timeout=30)
    assert found == {path: text for path, text in FILES.items() if path != "src/.env"}
    refuses(session.enqueue("using.reads", {"token": mine}), "installed by another run")


def test_a_grant_is_not_replayed_by_a_second_call(session: Any) -> None:
    run = session.enqueue("sharing.shares", {"asked": {}, "calls": 2})
    refuses(run, "installed by another run")
