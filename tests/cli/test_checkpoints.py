"""The commands of checkpoints, over folders, without a fleet."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from skillfleet.errors import SettingsError, UnknownCheckpointError
from skillfleet_cli.app import app
from skillfleet_cli.exits import CommandError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKILLFLEET_CHECKPOINTS_URL", f"file://{tmp_path}/store")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text("first")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["checkpoints", *map(str, arguments)])


def ok(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_a_folder_is_checkpointed_compared_and_restored(folder: Path, tmp_path: Path) -> None:
    first = ok("create", folder, "-m", "before", "--position", "4").strip()
    (folder / "notes.txt").write_text("second")
    (folder / "new").touch()
    assert ok("diff", folder, first).split() == ["+", "new", "M", "notes.txt"]
    second = json.loads(ok("create", folder, "--json"))
    assert second["parent"] == first
    listed = json.loads(ok("list", folder, "--json"))
    assert [each["id"] for each in listed] == [second["id"], first]
    assert (listed[1]["message"], listed[1]["position"]) == ("before", 4)
    assert "before" in ok("list", folder)
    ok("restore", folder, first, "--into", tmp_path / "fork")
    assert [path.name for path in (tmp_path / "fork").iterdir()] == ["notes.txt"]
    ok("restore", folder, first, "--force")
    assert (folder / "notes.txt").read_text() == "first"
    ok("delete", folder, first)
    assert [each["id"] for each in json.loads(ok("list", folder, "--json"))] == [second["id"]]


def test_files_are_not_replaced_without_force(folder: Path) -> None:
    made = ok("create", folder).strip()
    (folder / "notes.txt").write_text("second")
    result = run("restore", folder, made)
    assert isinstance(result.exception, CommandError)
    assert "--force" in str(result.exception)
    assert (folder / "notes.txt").read_text() == "second"


def test_an_unknown_checkpoint_is_named(folder: Path) -> None:
    result = run("delete", folder, "none")
    assert isinstance(result.exception, UnknownCheckpointError)
    assert "'none'" in str(result.exception)


def test_an_adapter_that_is_off_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLFLEET_CHECKPOINT", "ws_ckpt")
    monkeypatch.setenv("SKILLFLEET_WS_CKPT_COMMAND", "no-such-command")
    result = run("list", folder)
    assert isinstance(result.exception, SettingsError)
    assert "is off" in str(result.exception)


def test_without_a_url_the_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKILLFLEET_CHECKPOINTS_URL")
    monkeypatch.delenv("SKILLFLEET_ARTIFACTS_URL", raising=False)
    result = run("create", folder)
    assert isinstance(result.exception, SettingsError)
    assert "SKILLFLEET_CHECKPOINTS_URL" in str(result.exception)
