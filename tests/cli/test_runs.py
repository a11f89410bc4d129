"""Looking at runs and cancelling them."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.commands import Shell
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.xdist_group("cli")

RECITE = ("kit.recite", '{"words": ["one", "two"]}')


@pytest.fixture(scope="module")
def recited(shell: Shell) -> str:
    """The id of a finished run of `kit.recite`."""
    return shell.finished(*RECITE)


def test_status_shows_the_record_and_the_result(shell: Shell, recited: str) -> None:
    status = shell.ok("status", recited, "--json").json
    assert (status["state"], status["result"]) == ("succeeded", {"words": 2})
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["succeeded"]
    shown = shell.ok("status", recited).out
    for text in (recited, "kit.recite", "succeeded", '"words": 2'):
        assert text in shown


def test_events_resume_after_any_id(shell: Shell, recited: str) -> None:
    everything = shell.ok("events", recited, "--json").json_lines
    third = everything[2]["id"]
    assert shell.ok("events", recited, "--after", third, "--json").json_lines == everything[3:]
    assert shell.ok("events", recited, "--after", everything[-1]["id"], "--no-follow").out == ""


def test_events_for_people_are_one_line_each(shell: Shell, recited: str) -> None:
    lines = shell.ok("events", recited).out.splitlines()
    assert len(lines) == len(shell.ok("events", recited, "--json").json_lines)
    assert "2/2 weighing two" in lines[2]
    assert lines[-1].endswith("succeeded [completed]")


def test_events_without_following_stop_at_the_newest(shell: Shell) -> None:
    run_id = shell.enqueue("kit.sleep")
    shell.run("events", run_id, "--no-follow")
    cancelled = shell.ok("cancel", run_id, "--reason", "enough")
    assert run_id in cancelled.out
    events = shell.ok("events", run_id, "--json").json_lines
    assert events[-1]["payload"] == {
        "state": "cancelled",
        "code": "cancelled_by_caller",
        "message": "enough",
    }
    again = shell.ok("cancel", run_id, "--json").json
    assert again == {"id": run_id, "cancelled": False, "state": "cancelled"}
    assert "enough" in shell.ok("status", run_id).out


def test_ctrl_c_ends_the_printing_of_events_and_not_the_run(shell: Shell, tmp_path: Path) -> None:
    run_id = shell.enqueue("kit.sleep")
    with shell.start("events", run_id, log=tmp_path / "log") as command:
        command.wait_for("running, attempt 1")
        command.signal(signal.SIGINT)
        assert command.wait_end() == 130
    assert "Traceback" not in command.text
    cancelled = shell.ok("cancel", run_id, "--json").json
    assert cancelled["cancelled"], "it still ran"


INTERRUPTED = """
import os, signal, sys
from skillfleet_cli.main import main

moment = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize(
    "loading",
    ["typer", "skillfleet_cli.app", "skillfleet_ledger.runs.queries", "asyncio", "rich.text"],
)
def test_ctrl_c_works_while_the_command_still_loads(bare: Shell, loading: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, loading, "status", "some-run"],
        env=bare.environment("status"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_runs_are_listed_newest_first_and_by_state_and_agent(shell: Shell, recited: str) -> None:
    failed = shell.finished("kit.fail")
    newest = shell.ok("runs", "--json", "--limit", "2").json
    assert newest[0]["id"] == failed
    assert len(newest) == 2
    only = shell.ok("runs", "--state", "failed", "--agent", "kit", "--json").json
    assert {run["state"] for run in only} == {"failed"}
    assert shell.ok("runs", "--agent", "unknown", "--json").json == []
    table = shell.ok("runs").out
    assert table.startswith("RUN")
    assert "broken_flask: the flask broke" in table


def test_runs_are_found_by_tag_and_time_page_by_page(shell: Shell) -> None:
    tags = ("--tag", "tenant=acme", "--tag", "of=this test")
    made = [shell.ok("enqueue", "kit.add", "--arg", "x=1", *tags).out.strip() for _ in range(3)]
    assert "tenant=acme" in shell.ok("status", made[0]).out
    header, row = shell.ok("runs", *tags, "--limit", "1").out.splitlines()
    assert "TAGS" in header
    assert "of=this test, tenant=acme" in row
    first = shell.ok("runs", *tags, "--since", "1h", "--limit", "2", "--json")
    cursor = first.err.split("--cursor ")[1].strip()
    last = shell.ok("runs", *tags, "--cursor", cursor, "--json")
    assert {run["id"] for run in [*first.json, *last.json]} == set(made)
    assert "--cursor" not in last.err
    assert shell.ok("runs", *tags, "--since", "2100-01-01", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tag", "tenant"), "--tag 'tenant' must be key=value"),
        (("--tag", "a b=1"), "tags: the key 'a b' must"),
        (("--tag", "a=1", "--tag", "a=2"), "given twice"),
        (("--since", "yesterday"), "--since 'yesterday' must be a span"),
        (("--since", "99999999999d"), "must be a span"),
        (("--cursor", "next"), "--cursor: after must be the cursor"),
    ],
)
def test_invalid_conditions_are_refused(
    shell: Shell, arguments: tuple[str, ...], complaint: str
) -> None:
    ended = shell.run("runs", *arguments)
    assert ended.code == 2
    assert complaint in ended.err


def test_agents_are_listed_with_their_skills_and_queues(shell: Shell) -> None:
    cards = {card["name"]: card for card in shell.ok("agents", "--json").json}
    assert set(cards) == {"kit", "annex", "fleet"}
    assert cards["annex"]["queue"] == "annex-queue"
    table = shell.ok("agents").out
    assert "kit.add" in table
    assert "x [y]" in table
    assert "Add two numbers." in table


def test_output_into_a_pipe_is_never_cut(shell: Shell, recited: str) -> None:
    narrow = replace(shell, settings={"COLUMNS": "20"})
    assert recited in narrow.ok("runs", "--limit", "200").out


def test_sessions_are_listed_and_shown_with_their_runs(shell: Shell) -> None:
    runs = [
        shell.finished(*RECITE, "--session", "chat 1", "--on-busy", how)
        for how in ("queue", "reject")
    ]
    (listed,) = [
        each for each in shell.ok("sessions", "list", "--json").json if each["id"] == "chat 1"
    ]
    assert (listed["runs"], listed["waiting"], listed["current"]) == (2, 0, None)
    assert "chat 1" in shell.ok("sessions", "list").out
    shown = shell.ok("sessions", "show", "chat 1", "--json").json
    assert shown["run_ids"] == runs[::-1]
    assert runs[0] in shell.ok("sessions", "show", "chat 1").out
    assert "chat 1" in shell.ok("status", runs[0]).out
    found = shell.ok("runs", "--session", "chat 1", "--json").json
    assert [run["id"] for run in found] == runs[::-1]
    header, *rows = shell.ok("runs", "--session", "chat 1").out.splitlines()
    assert "SESSION" in header
    assert all("chat 1" in row for row in rows)
    assert "SESSION" not in shell.ok("sessions", "show", "chat 1").out
    unclaimed = shell.run("runs", "--session", "chat 1", "--tenant", "acme")
    assert (unclaimed.code, "SKILLFLEET_TENANT_CLAIM" in unclaimed.err) == (2, True)
    missing = shell.run("sessions", "show", "chat 2")
    assert (missing.code, "no session 'chat 2'" in missing.err) == (2, True)


def test_grants_of_a_run_or_a_session_are_revoked(shell: Shell, kit_server: ValkeyServer) -> None:
    def noted() -> set[bytes]:
        with kit_server.client() as client:
            return {key.split(b":", 2)[2] for key in client.keys("*grant_epoch:*")}

    run = shell.finished(*RECITE, "--session", "granting 1")
    assert noted() == set()
    assert "of session granting 1" in shell.ok("grants", "revoke", "--session", "granting 1").err
    assert noted() == {b"grant_epoch:/granting 1"}
    assert f"of run {run}" in shell.ok("grants", "revoke", run).err
    assert noted() == {b"grant_epoch:/granting 1", f"grant_epoch:{run}".encode()}
    for wrong, what in (
        ((), "either RUN or --session"),
        ((run, "--session", "granting 1"), "either RUN or --session"),
        ((run, "--subject", "ada"), "are those of a --session"),
        (("nothing",), "no run 'nothing'"),
        (("--session", "granting 2"), "no session 'granting 2'"),
    ):
        refused = shell.run("grants", "revoke", *wrong)
        assert (refused.code, what in refused.err) == (2, True), refused.err
