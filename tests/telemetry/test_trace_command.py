"""`skillfleet trace`: a run's tree in the terminal, from the ledger alone."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skillfleet.errors import RunError
from skillfleet_producer import RunHandle
from tests.cli.commands import Shell
from tests.cli.terminal import on_terminal
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched, watched
from tests.telemetry.receiver import Receiver

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


@pytest.fixture(scope="module")
def parking(server_receiver: Receiver) -> Iterator[Watched]:
    """A fleet that parks at once."""
    with watched("loop", server_receiver, park_seconds=0.1, reap_seconds=0.2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def server_receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def cells(text: str, word: str) -> list[str]:
    """Return the cells of the only row with this word: name, state, start, time, bar."""
    (line,) = [line for line in text.splitlines() if word in line]
    return re.split(r" {2,}", line[line.index(word) :].strip())


def test_steps_waits_and_attempts_of_a_run_that_was_parked_are_shown(
    parking: Watched, tmp_path: Path
) -> None:
    run = parking.fleet.enqueue("watched.deliberates")
    wait_until(lambda: run.status().parked, what="the run to be parked")
    text = trace(parking, run)
    assert cells(text, "─ step think")[1] == "succeeded"
    assert cells(text, "─ ask 1: Count the whales?")[1] == "open"
    assert "replayed" not in text
    run.answer(True, auth={"sub": "ann"})
    run.result(timeout=60)
    text = trace(parking, run)
    # The call may lead to further attempts.
    first, second, *_ = re.split(r"\n.*? attempt \d on .*", text)[1:]
    assert cells(first, "─ step think")[1] == "succeeded"
    assert cells(first, "─ ask 1: Count the whales? (by ann)")[1] == "answered"
    assert cells(second, "─ 1 recorded: think")[1] == "replayed"
    assert cells(text, "─ call watched.add")[1] == "succeeded"
    assert cells(text, "─ step sum")[1] == "succeeded"
    assert "wait_ended" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("watched.deliberates")]
    assert "░" in line, "a parked run is in no worker"
    code, shown = on_terminal(Shell(parking.server.url, tmp_path), "trace", run.id, columns=60)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert code == 0
    assert any("…  " in line for line in lines), "long names are cut"
    assert not any(line.endswith("…") or len(line) > 60 for line in lines), "bars are not"


def test_a_fork_replays_what_it_copied(parking: Watched) -> None:
    run = parking.fleet.enqueue("watched.deliberates")
    wait_until(lambda: run.status().parked, what="the run to be parked")
    forked = run.fork()
    wait_until(lambda: forked.status().parked, what="the fork to be parked")
    text = trace(parking, forked)
    assert cells(text, "1 recorded: think")[1] == "replayed"
    assert "step think" not in text
    run.cancel()
    forked.cancel()
    wait_until(lambda: forked.status().finished_at, what="the end of the fork")
    found = json.loads(trace(parking, forked, "--json"))
    assert [step["name"] for step in found["steps"]] == ["think"]
    assert [(wait["kind"], wait["attempt"]) for wait in found["waits"]] == [("ask", 1)]
    assert cells(trace(parking, forked), "─ ask 1:")[1] == "left open"


def test_many_steps_stay_bounded(loop: Watched) -> None:
    run = loop.fleet.enqueue("watched.records", {"n": 30})
    run.result(timeout=60)
    lines = trace(loop, run, "--steps", "5").splitlines()
    assert len([line for line in lines if "─ step think" in line]) == 5
    assert "… 25 more steps" in lines[-1]


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
