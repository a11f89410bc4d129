"""A fleet that serves the examples, and folders to survey."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer, running_server

MODULES = "examples.librarian,examples.words,examples.patterns"


@pytest.fixture(scope="session")
def examples_fleet() -> Iterator[ValkeyServer]:
    """A server with one worker that serves the examples' agents."""
    with (
        running_server() as server,
        FleetWorker(
            server,
            "examples.librarian,examples.words,examples.patterns",
            concurrency=400,
            secret_signing_key="a signing key",
        ),
    ):
        yield server


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small folder with one of everything that a survey may meet."""
    folder = tmp_path / "the library"
    files = {
        "readme.md": b"# Hello\n\nTODO: write more\n",
        "src/main.py": b"import sys\n\n# FIXME(ann): handle errors\nsys.exit()",
        "src/with spaces | and bars.py": b"print()\n" * 7,
        "latin.txt": "déjà vu\n".encode("latin-1"),
        "empty.txt": b"",
        "picture.bin": b"\x89PNG\0\0",
        ".git/config": b"[core]\n",
        "cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\n",
        "cache/entry.txt": b"cached\n",
        "environment/pyvenv.cfg": b"home = /usr/bin\n",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "loop").symlink_to(folder)
    (folder / "link.md").symlink_to(folder / "readme.md")
    return folder
