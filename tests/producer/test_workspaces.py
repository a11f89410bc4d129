"""Workspaces of sessions at producers: both fleets, settings, and whose workspace it is."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillfleet.errors import CapabilityUnavailableError, SettingsError, WorkspaceDenied
from skillfleet_producer import AsyncFleet, Fleet, Settings

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKILLFLEET_WORKSPACE", "directory")
    monkeypatch.setenv("SKILLFLEET_WORKSPACE_DIRECTORY", str(tmp_path))
    return tmp_path


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    del folder
    with Fleet(NOWHERE) as fleet:
        yield fleet


def test_a_producer_puts_files_in_and_takes_them_out(fleet: Fleet) -> None:
    workspace = fleet.session("chat").workspace
    workspace.put("a/b.txt", b"one")
    assert workspace.get("a/b.txt") == b"one"
    assert [each.path for each in fleet.session("chat").workspace.list()] == ["a/b.txt"]
    packed = b"".join(workspace.download_tar())
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["a/b.txt"]
    other = fleet.session("other").workspace
    assert other.list() == []
    assert other.upload_tar(io.BytesIO(packed)) == ["a/b.txt"]
    assert other.delete("a/b.txt")
    assert not other.delete("a/b.txt")
    with pytest.raises(FileNotFoundError):
        other.get("a/b.txt")
    with pytest.raises(WorkspaceDenied):
        workspace.upload_tar(packed, max_bytes=1)
    assert workspace.get("a/b.txt") == b"one"


async def test_the_asynchronous_fleet_sees_the_same_files(fleet: Fleet) -> None:
    async with AsyncFleet(NOWHERE) as other:
        await other.session("chat").workspace.put("a", b"1")
        assert fleet.session("chat").workspace.get("a") == b"1"


def test_each_caller_has_a_workspace_of_its_own_where_runs_are_signed(
    folder: Path, fleet: Fleet
) -> None:
    signed = Fleet(settings=Settings.load(redis_url=NOWHERE, auth="required"))
    with signed:
        for subject in ("ann", "bob"):
            signed.session("chat", auth={"sub": subject}).workspace.put("a", subject.encode())
        assert signed.session("chat", auth={"sub": "ann"}).workspace.get("a") == b"ann"
        assert fleet.session("chat").workspace.list() == []
    assert len(list(folder.iterdir())) >= 2


def test_without_the_settings_the_error_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del folder
    monkeypatch.delenv("SKILLFLEET_WORKSPACE_DIRECTORY")
    with Fleet(NOWHERE) as fleet, pytest.raises(SettingsError, match="WORKSPACE_DIRECTORY"):
        _ = fleet.session("chat").workspace
    monkeypatch.delenv("SKILLFLEET_WORKSPACE")
    with (
        Fleet(NOWHERE) as fleet,
        pytest.raises(CapabilityUnavailableError, match="SKILLFLEET_WORKSPACE"),
    ):
        _ = fleet.session("chat").workspace
