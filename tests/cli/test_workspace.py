"""The files of a session's workspace at the command line, which needs no Redis for them."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.commands import Shell

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    """A shell whose fleet has workspaces in a folder."""
    settings = {
        "SKILLFLEET_WORKSPACE": "directory",
        "SKILLFLEET_WORKSPACE_DIRECTORY": str(tmp_path / "workspaces"),
    }
    return Shell("redis://127.0.0.1:1", tmp_path, settings)


def test_files_are_put_listed_taken_out_and_deleted(here: Shell) -> None:
    (here.folder / "local.txt").write_text("from a file")
    here.ok("workspace", "put", "chat 1", "deep/a.txt", "local.txt")
    here.ok("workspace", "put", "chat 1", "b.txt", stdin="from stdin")
    here.ok("workspace", "put", "chat 2", "b.txt", "-", stdin="another session")
    listed = here.ok("workspace", "list", "chat 1", "--json").json
    assert listed == [
        {"path": "b.txt", "size_bytes": 10},
        {"path": "deep/a.txt", "size_bytes": 11},
    ]
    assert "deep/a.txt" in here.ok("workspace", "list", "chat 1").out
    assert here.ok("workspace", "get", "chat 1", "b.txt", "-o", "-").out == "from stdin"
    here.ok("workspace", "get", "chat 1", "deep/a.txt")
    assert (here.folder / "a.txt").read_text() == "from a file"
    again = here.run("workspace", "get", "chat 1", "deep/a.txt")
    assert (again.code, "already exists" in again.err) == (2, True)
    here.ok("workspace", "delete", "chat 1", "b.txt", "deep/a.txt")
    assert here.ok("workspace", "list", "chat 1").err == "no files\n"
    assert here.ok("workspace", "get", "chat 2", "b.txt", "-o", "-").out == "another session"


def test_archives_go_in_and_out(here: Shell) -> None:
    with tarfile.open(here.folder / "in.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("./docs/a.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
    changed = here.ok("workspace", "upload", "chat", "in.tar.gz", "--json").json
    assert changed == {"changed": ["docs/a.txt"]}
    here.ok("workspace", "download", "chat", "out.tar")
    with tarfile.open(here.folder / "out.tar") as archive:
        assert archive.getnames() == ["docs/a.txt"]
    assert here.ok("workspace", "download", "chat").out.startswith("docs/a.txt\0")


def test_what_is_wrong_is_one_clear_line(here: Shell) -> None:
    with tarfile.open(here.folder / "bad.tar", "w") as archive:
        link = tarfile.TarInfo("passwords")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (here.folder / "text").write_text("no archive")
    without = replace(here, settings={})
    for code, said, result in (
        (2, "no file 'a'", here.run("workspace", "get", "chat", "a")),
        (2, "no file 'a'", here.run("workspace", "delete", "chat", "a")),
        (2, "contains '..'", here.run("workspace", "put", "chat", "../a", stdin="x")),
        (1, "cannot read nothing", here.run("workspace", "put", "chat", "a", "nothing")),
        (2, "no regular file", here.run("workspace", "upload", "chat", "bad.tar")),
        (2, "cannot be read", here.run("workspace", "upload", "chat", "text")),
        (1, "SKILLFLEET_WORKSPACE", without.run("workspace", "list", "chat")),
    ):
        assert (result.code, said in result.err) == (code, True), result
        assert result.err.count("\n") == 1
