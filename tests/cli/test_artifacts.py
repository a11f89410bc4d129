"""Artifacts: listed, and written to files in pieces, checked."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.commands import Shell

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def recited(shell: Shell) -> str:
    """The id of a run that wrote deep/words.txt."""
    return shell.finished("kit.recite", '{"words": ["one", "two"]}')


def test_artifacts_are_listed(shell: Shell, recited: str) -> None:
    (info,) = shell.ok("artifacts", recited, "--json").json
    assert (info["name"], info["size_bytes"]) == ("deep/words.txt", 7)
    assert info["sha256"] == hashlib.sha256(b"one two").hexdigest()
    assert "deep/words.txt" in shell.ok("artifacts", recited).out


def test_an_artifact_goes_to_stdout_a_file_or_a_folder(
    shell: Shell, recited: str, tmp_path: Path
) -> None:
    assert shell.ok("artifacts", recited, "deep/words.txt", "-o", "-").out == "one two"
    target = tmp_path / "mine.txt"
    target.write_text("old")
    shell.ok("artifacts", recited, "deep/words.txt", "-o", str(target))
    assert target.read_text() == "one two"
    saved = shell.ok("artifacts", recited, "deep/words.txt", "-o", str(tmp_path), "--json").json
    assert saved["path"] == str(tmp_path / "words.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "words.txt"]


def test_without_a_target_it_takes_the_last_part_of_its_name_but_replaces_nothing(
    shell: Shell, recited: str, tmp_path: Path
) -> None:
    here = replace(shell, folder=tmp_path)
    here.ok("artifacts", recited, "deep/words.txt")
    assert (tmp_path / "words.txt").read_text() == "one two"
    again = here.run("artifacts", recited, "deep/words.txt")
    assert again.code == 2
    assert "already exists" in again.err


def test_an_artifact_of_many_chunks_arrives_whole(shell: Shell, tmp_path: Path) -> None:
    run_id = shell.finished("kit.big", '{"mebibytes": 5}')
    target = tmp_path / "big.bin"
    shell.ok("artifacts", run_id, "big.bin", "-o", str(target))
    assert target.read_bytes() == b"".join(bytes([n]) * 1024 * 1024 for n in range(5))


def test_a_target_that_cannot_be_written_is_one_clear_line(shell: Shell, recited: str) -> None:
    result = shell.run("artifacts", recited, "deep/words.txt", "-o", "no/such/folder/words.txt")
    assert result.code == 1
    assert "cannot write no/such/folder/words.txt" in result.err
    assert result.err.count("\n") == 1


def test_an_unknown_artifact_names_the_known_ones(shell: Shell, recited: str) -> None:
    result = shell.run("artifacts", recited, "nope.txt")
    assert result.code == 2
    assert "it has: deep/words.txt" in result.err
