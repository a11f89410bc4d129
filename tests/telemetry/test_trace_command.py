"""`skillfleet trace`: a run's tree in the terminal, from the ledger alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skillfleet.errors import RunError
from skillfleet_producer import RunHandle
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched

COMMAND = (sys.executable, "-m", "skillfleet_cli", "trace")


@pytest.fixture
def loop(watched_fleets: Callable[[str], Watched]) -> Watched:
    return watched_fleets("loop")


def trace(loop: Watched, run: RunHandle | str, *options: str) -> str:
    run_id = run if isinstance(run, str) else run.id
    done = subprocess.run(
        [*COMMAND, run_id, *options],
        env=os.environ | {"SKILLFLEET_REDIS_URL": loop.server.url, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_survey_shows_its_events_and_the_runs_it_called(loop: Watched, tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"file{i}.txt").write_text("text\n")
    run = loop.fleet.enqueue("librarian.survey", {"folder": str(tmp_path)})
    run.result(timeout=60)
    text = trace(loop, run, "--children", "4")
    first, _, root, *rest = text.splitlines()
    assert first.startswith(f"trace {run.status().trace_id}  took ")
    assert root.startswith("librarian.survey")
    assert "succeeded" in root
    assert "█" in root
    assert sum("─ librarian.read_file" in line for line in rest) == 4
    assert any("progress x" in line for line in rest)
    assert "└─ … 2 x librarian.read_file succeeded" in rest[-1]


def test_the_tree_as_json_holds_runs_events_and_what_is_not_shown(loop: Watched) -> None:
    run = loop.fleet.enqueue("watched.adds_all", {"n": 5})
    run.result(timeout=60)
    found: dict[str, Any] = json.loads(trace(loop, run, "--json", "--children", "3"))
    assert found["run"]["id"] == run.id
    assert [event["kind"] for event in found["events"]] == ["state", "state"]
    assert [child["run"]["parent_id"] for child in found["children"]] == [run.id] * 3
    assert found["not_shown"] == 2
    assert found["children"][0]["children"] == []


def test_attempts_are_shown_when_there_were_several(loop: Watched) -> None:
    run = loop.fleet.enqueue("watched.fails_once")
    run.result(timeout=60)
    lines = trace(loop, run).splitlines()
    (first,) = [line for line in lines if "attempt 1 on" in line]
    (second,) = [line for line in lines if "attempt 2 on" in line]
    assert "retry" in first
    assert "succeeded" in second


def test_a_running_run_is_shown_as_far_as_it_is(loop: Watched) -> None:
    run = loop.fleet.enqueue("watched.waits")
    wait_until(lambda: run.status().events > 1, what="the run to wait")
    text = trace(loop, run)
    assert "running" in text
    assert "waiting" in text
    run.cancel()
    with pytest.raises(RunError):
        run.result(timeout=60)
    assert "cancelled" in trace(loop, run)


def test_a_queued_run_is_shown_with_its_wait(loop: Watched) -> None:
    run = loop.fleet.enqueue("watched.add", {"x": 1}, queue="unread")
    text = trace(loop, run)
    assert "queued" in text
    assert "░" in text
    assert "█" not in text
    run.cancel()


def test_deep_trees_and_many_events_stay_bounded(loop: Watched) -> None:
    run = loop.fleet.enqueue("watched.talks", {"n": 60})
    run.result(timeout=60)
    lines = trace(loop, run, "--events", "5").splitlines()
    assert len(lines) == 3 + 5 + 1
    assert "115 more events" in lines[-1]


def test_an_unknown_run_is_an_error(loop: Watched) -> None:
    done = subprocess.run(
        [*COMMAND, "no-such-run"],
        env=os.environ | {"SKILLFLEET_REDIS_URL": loop.server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "no-such-run" in done.stderr
