"""Enqueueing, with and without following the run."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.commands import Shell
from tests.cli.terminal import on_terminal

pytestmark = pytest.mark.xdist_group("cli")


def test_enqueue_prints_the_id_and_nothing_else(shell: Shell) -> None:
    result = shell.ok("enqueue", "kit.sleep", "--queue", "unserved", "--delay", "600")
    run_id = result.out.strip()
    assert result.err == ""
    status = shell.ok("status", run_id, "--json").json
    assert (status["state"], status["queue"]) == ("queued", "unserved")
    assert status["due_at"] is not None
    shell.ok("cancel", run_id)


def test_arguments_come_from_json_stdin_a_file_and_pairs(shell: Shell) -> None:
    (shell.folder / "args.json").write_text('{"x": 1, "y": 2}')
    given = {
        ('{"x": 5}',): 6,
        ("@args.json", "--arg", "y=40"): 41,
        ("--arg", "x=7", "--arg", "y=-7"): 0,
    }
    for arguments, value in given.items():
        lines = shell.ok("enqueue", "kit.add", *arguments, "--follow", "--json").json_lines
        assert lines[-1]["result"] == value
    words = ("enqueue", "kit.recite", "-", "--follow", "--json")
    assert shell.ok(*words, stdin='{"words": ["a"]}').json_lines[-1]["result"] == {"words": 1}


def test_a_followed_run_streams_its_text_to_stdout_and_all_else_to_stderr(shell: Shell) -> None:
    result = shell.ok("enqueue", "kit.recite", '{"words": ["one", "two"]}', "--follow")
    text, _, value = result.out.partition("\n")
    assert text == "one two "
    assert json.loads(value) == {"words": 2}
    for line in (
        "1/2 weighing one",
        "2/2 weighing two",
        "artifact deep/words.txt",
        "error: one word was dull [dull]",
        "succeeded",
    ):
        assert line in result.err


def test_json_of_a_followed_run_is_the_id_the_events_and_the_status(shell: Shell) -> None:
    first, *events, last = shell.ok(
        "enqueue", "kit.recite", '{"words": ["one"]}', "-f", "--json"
    ).json_lines
    assert first["id"] == last["id"]
    assert [event["id"] for event in events] == [f"{n}-0" for n in range(1, len(events) + 1)]
    assert {"progress", "text_delta", "artifact"} < {event["kind"] for event in events}
    assert (last["state"], last["result"]) == ("succeeded", {"words": 1})


def test_the_exit_code_reports_how_the_run_ended(shell: Shell) -> None:
    failed = shell.run("enqueue", "kit.fail", "--follow")
    assert failed.code == 1
    assert "broken_flask: the flask broke" in failed.err
    timed_out = shell.run("enqueue", "kit.sleep", "--timeout", "0.3", "--follow")
    assert timed_out.code == 4
    assert "timed_out" in timed_out.err


def test_an_idempotency_key_gives_the_same_run(shell: Shell) -> None:
    once = ("kit.add", '{"x": 1}', "--idempotency-key", "once")
    assert shell.enqueue(*once) == shell.enqueue(*once)
    other = shell.run("enqueue", "kit.add", '{"x": 2}', "--idempotency-key", "once")
    assert other.code == 2
    assert "idempotency key" in other.err


def test_ctrl_c_cancels_the_followed_run_on_the_fleet(shell: Shell, tmp_path: Path) -> None:
    with shell.start("enqueue", "kit.sleep", "--follow", log=tmp_path / "log") as command:
        command.wait_for("running, attempt 1")
        command.signal(signal.SIGINT)
        assert command.wait_end() == 3
    run_id = command.wait_for(r"run (\S+)")[1]
    assert f"cancelling run {run_id}" in command.text
    assert shell.ok("status", run_id, "--json").json["state"] == "cancelled"


def test_a_second_ctrl_c_leaves_without_the_run_s_end(shell: Shell, tmp_path: Path) -> None:
    with shell.start("enqueue", "kit.linger", "--follow", log=tmp_path / "log") as command:
        command.wait_for("running, attempt 1")
        command.signal(signal.SIGINT)
        command.wait_for("cancelling run")
        command.signal(signal.SIGINT)
        assert command.wait_end() == 130
    assert "Traceback" not in command.text
    run_id = command.wait_for(r"run (\S+)")[1]
    ended = shell.run("events", run_id, "--json").json_lines[-1]
    assert ended["payload"]["state"] == "cancelled"


def test_following_reports_that_no_worker_serves_the_skill(bare: Shell, tmp_path: Path) -> None:
    # Without a worker only an administrator can end the run.
    with replace(bare, users=False).start(
        "enqueue", "kit.add", "-f", log=tmp_path / "log"
    ) as command:
        command.wait_for("no live worker serves kit.add")
        command.signal(signal.SIGINT)
        assert command.wait_end() == 3


def test_on_a_terminal_progress_is_a_bar_below_the_text(shell: Shell) -> None:
    words = '{"words": ["one", "two"]}'
    code, shown = on_terminal(shell, "enqueue", "kit.recite", words, "--follow")
    assert code == 0
    assert "2/2" in shown
    assert "━" in shown
    assert "\x1b[2K" in shown, "the bar is wiped away"
    assert "one two" in shown
    assert "1/2 weighing one" not in shown, "no plain progress lines"
