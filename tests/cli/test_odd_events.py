"""Events that are allowed but odd, and a terminal that they are shown on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Shell
from tests.cli.terminal import HOSTILE, VISIBLE, harmful, on_terminal

pytestmark = pytest.mark.xdist_group("cli")

MARKUP = ("progress", {"message": "[/x] of [red]nothing"})
ODD: list[tuple[str, dict[str, Any]]] = [
    MARKUP,
    # What is no progress comes above the bar, which shows its last text until then.
    ("artifact", {}),
    ("progress", {"message": "[/]", "current": 1, "total": 2}),
    ("progress", {"message": HOSTILE, "current": 1, "total": 2}),
    ("progress", {"current": "3 of 5", "total": "5"}),
    ("progress", {"current": [1], "total": {}}),
    ("progress", {"current": True, "total": True}),
    ("progress", {"current": -5, "total": -1}),
    ("progress", {"current": 2**63, "total": 2**64 - 1}),
    ("progress", {"current": 0, "total": 0}),
    ("progress", {"message": None}),
    ("artifact", {"name": 1, "mime_type": 5, "size_bytes": "many"}),
    ("error", {"message": {"a": 1}, "code": 5}),
    ("my.kind", {"deep": [[[HOSTILE]]]}),
    ("text_delta", {"text": None}),
    ("text_delta", {}),
    ("text_delta", {"text": 5}),
    ("text_delta", {"text": HOSTILE}),
]
SEVERAL = json.dumps({"events": ODD})


def test_a_run_with_odd_events_is_followed_to_its_end_on_a_terminal(shell: Shell) -> None:
    code, shown = on_terminal(shell, "enqueue", "kit.plays", SEVERAL, "--follow")
    assert code == 0, shown
    assert not harmful(shown)
    assert "\x1b]" not in shown
    assert "[/x] of [red]nothing" in shown
    assert "None" not in shown
    assert VISIBLE in shown


def test_into_a_pipe_text_goes_as_it_is_and_all_else_printable(shell: Shell) -> None:
    result = shell.ok("enqueue", "kit.plays", SEVERAL, "--follow")
    assert result.out == f"5{HOSTILE}\n{HOSTILE}\n".replace("\r", "\n"), "universal newlines"
    assert not harmful(result.err)
    for line in ("[/x] of [red]nothing", "3 of 5/5", "[1]/{}", "true/true", "-5/-1", "0/0"):
        assert line in result.err
    assert str(2**64 - 1) in result.err


def test_lines_of_json_hold_no_control_characters(shell: Shell) -> None:
    result = shell.ok("enqueue", "kit.plays", SEVERAL, "--follow", "--json")
    assert not harmful(result.out)
    first, *_, last = result.json_lines
    assert last["result"] == HOSTILE
    for verb in ("events", "trace", "status"):
        seen = shell.ok(verb, first["id"])
        assert not harmful(seen.out)
        code, shown = on_terminal(shell, verb, first["id"])
        assert code == 0
        assert not harmful(shown)


def test_an_artifact_that_is_shown_on_a_terminal_does_not_steer_it(shell: Shell) -> None:
    run = shell.finished("kit.plays", json.dumps({"events": [], "artifact": HOSTILE}))
    code, shown = on_terminal(shell, "artifacts", run, "art\u202efact.txt", "-o", "-")
    assert code == 0
    assert VISIBLE in shown
    assert not harmful(shown)
    assert not harmful(shell.ok("artifacts", run).out)
    assert "\x1b]0;title" in shell.ok("artifacts", run, "art\u202efact.txt", "-o", "-").out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_stdout_that_lacks_letters_fails_no_command(
    shell: Shell, tmp_path: Path, encoding: str
) -> None:
    settings = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    poor = Shell(shell.url, shell.folder, {**shell.settings, **settings}, users=True)
    snowman = json.dumps({"events": [MARKUP], "artifact": "\u2603"})
    result = poor.ok("enqueue", "kit.plays", snowman, "--follow")
    assert result.out.endswith("\u2603\n".encode(encoding, "backslashreplace").decode())
    for verb in ("runs", "agents", "doctor"):
        assert poor.run(verb).code in (0, 1)
