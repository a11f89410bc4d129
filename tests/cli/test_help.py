"""The help: of every verb, with examples, and quick."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from skillfleet_cli.app import app

VERBS = [
    *("worker", "dev", "enqueue", "status", "events", "cancel", "runs", "artifacts", "agents"),
    *("checkpoints list", "checkpoints create", "checkpoints diff"),
    *("checkpoints restore", "checkpoints delete"),
    *("doctor", "dead list", "dead show", "dead retry", "dead purge"),
    *("trace", "exporter", "keys new", "token", "sessions list", "sessions show"),
    "grants revoke",
    *("workspace list", "workspace put", "workspace get", "workspace delete"),
    *("workspace upload", "workspace download"),
]


def shown(*arguments: str) -> str:
    """Return the command's output for arguments that need no fleet."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    assert f"$ skillfleet {verb}" in shown(*verb.split(), "--help")


def test_the_help_lists_every_verb() -> None:
    text = shown("--help")
    for verb in VERBS:
        assert f" {verb.partition(' ')[0]} " in text


def test_the_version_is_the_distribution_s() -> None:
    assert shown("--version") == f"skillfleet {version('skillfleet')}\n"


def test_the_help_loads_nothing_slow() -> None:
    """Slow imports are loaded only by the commands that need them."""
    slow = {"celery", "kombu", "pydantic", "redis", "opentelemetry", "skillfleet_producer"}
    script = (
        "import sys, skillfleet_cli.main as m\n"
        "sys.argv = ['skillfleet', '--help']\n"
        "try: m.main()\n"
        "except SystemExit: print(*sorted({n.partition('.')[0] for n in sys.modules}))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert slow & set(ended.stdout.splitlines()[-1].split()) == set()
