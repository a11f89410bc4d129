"""The client examples as their users start them, against a real worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skillfleet_producer import Fleet
from tests.support.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("examples")


def run_example(name: str, server: ValkeyServer, *arguments: str) -> list[str]:
    """The lines that an example prints; fails with its output unless it exits with 0."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"examples.{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"SKILLFLEET_REDIS_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    return ended.stdout.splitlines()


def section(lines: list[str], name: str) -> list[str]:
    """Return the output of one of an example's functions."""
    rest = lines[lines.index(f"--- {name}") + 1 :]
    ends = [number for number, line in enumerate(rest) if line.startswith("--- ")]
    return [line for line in rest[: ends[0] if ends else None] if line]


def test_five_lines_stream_a_report(examples_fleet: ValkeyServer, library: Path) -> None:
    lines = run_example("five_lines", examples_fleet, str(library))
    assert lines[0] == f"# What is in {library}"
    assert lines[-1] == "15 lines"


@pytest.mark.parametrize("name", ["producer_sync", "producer_async"])
def test_a_producer_streams_resumes_and_cancels(
    name: str, examples_fleet: ValkeyServer, library: Path
) -> None:
    lines = run_example(name, examples_fleet, str(library))
    streamed = section(lines, "stream")
    assert streamed[0] == f"# What is in {library}"
    assert streamed[-1] == "15 lines"
    (resumed,) = section(lines, "resume")
    with Fleet(examples_fleet.producer_url) as fleet:
        newest = fleet.runs(agent="librarian", limit=200)
        counts = {run.events for run in newest if run.skill == "survey"}
    assert int(resumed.split()[0]) in counts
    (cancelled,) = section(lines, "cancel")
    assert cancelled == "cancelled_by_caller: the user went away"


def test_an_idempotency_key_stands_for_one_run_and_artifacts_can_be_fetched(
    examples_fleet: ValkeyServer, library: Path
) -> None:
    lines = run_example("producer_sync", examples_fleet, str(library))
    assert section(lines, "only_once") == ["one run: True"]
    report, survey, title = section(lines, "fetch")
    assert report.startswith("report.md text/markdown ")
    assert survey.startswith("survey.json application/json ")
    assert title == f"# What is in {library}"


def test_many_runs_are_enqueued_and_awaited_together(
    examples_fleet: ValkeyServer, library: Path
) -> None:
    lines = run_example("producer_async", examples_fleet, str(library))
    assert section(lines, "side_by_side") == ["[5, 5, 5, 5, 5]"]


def test_a_plain_celery_client_gets_results_errors_and_revokes(
    examples_fleet: ValkeyServer,
) -> None:
    counted, refused, revoked = run_example(
        "plain_celery_client", examples_fleet, examples_fleet.url
    )
    assert counted == "{'words': 6, 'longest': 'not'} SUCCESS"
    assert "'txt'" in refused
    assert refused.endswith("FAILURE")
    assert revoked.startswith("TaskRevokedError(")
    assert revoked.endswith(" REVOKED")
