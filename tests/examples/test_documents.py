"""README.md and the pages in docs/: what they show is run, and what they name exists."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("adapters", "durable", "internals", "skills", "producer")
    ),
]
EXECUTED = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "tests/examples").glob("*.py")]

pytestmark = pytest.mark.xdist_group("examples")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The code blocks of a page in a language."""
    yield from re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
    )


def flat(code: str) -> str:
    """Code without indentation: a quote may leave out what it stands in."""
    return "\n".join(line.strip() for line in code.strip().splitlines())


def commands(page: Path) -> list[str]:
    """The page's `skillfleet` commands that talk to a fleet, a line each."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    ours = [line for line in lines if line.startswith("skillfleet ")]
    return [line for line in ours if not line.startswith(("skillfleet worker", "skillfleet dev"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_quoted_from_code_that_the_tests_run(page: Path) -> None:
    sources = [flat(path.read_text()) for path in EXECUTED]
    for block in blocks(page, "python"):
        found = any(flat(block) in source for source in sources)
        assert found, f"{page.name} shows code that no example and no test contains:\n{block}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("command", commands(README))
def test_the_commands_of_the_readme_work(
    command: str, examples_fleet: ValkeyServer, tmp_path: Path
) -> None:
    with Fleet(examples_fleet.producer_url) as fleet:
        if "cancel" in command:
            run = fleet.enqueue("fleet.echo", {"seconds": 60})
        else:
            run = fleet.enqueue("words.count", {"text": "to be"})
            run.result(timeout=20)
    arguments = shlex.split(command.replace("RUN", run.id))[1:]
    ended = subprocess.run(
        [sys.executable, "-m", "skillfleet_cli", *arguments],
        cwd=tmp_path,
        env=os.environ | {"SKILLFLEET_REDIS_URL": examples_fleet.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_files_that_the_internals_name_exist() -> None:
    names = re.findall(r"`([\w/]+\.(?:py|lua))`", (ROOT / "docs" / "internals.md").read_text())
    folders = (
        *("sdk", "ledger", "telemetry", "auth", "producer"),
        *("engine", "adapters", "worker", "cli"),
    )
    missing = [
        name
        for name in names
        if not (ROOT / name).exists()
        and not any(list((ROOT / folder).rglob(name)) for folder in folders)
    ]
    assert names
    assert not missing


def test_simultaneous_runs_share_their_scripts(examples_fleet: ValkeyServer) -> None:
    runs = 50

    def scripts() -> int:
        with examples_fleet.client() as client:
            stats: Any = client.info("commandstats")
            return int(stats["cmdstat_evalsha"]["calls"])

    with Fleet(examples_fleet.producer_url) as fleet:
        fleet.enqueue("fleet.echo").result(timeout=20)
        before = scripts()
        for run in fleet.enqueue_many("fleet.echo", [{}] * runs):
            run.result(timeout=20)
        # Of three scripts each; heartbeat and reaper call a few as well.
        assert scripts() - before < 2 * runs
