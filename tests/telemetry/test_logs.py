"""Log lines of runs: they name their run, whatever library wrote them, and hide secrets."""

import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from skillfleet.contracts import RunState
from skillfleet.redaction import HIDDEN
from skillfleet_telemetry import logs
from skillfleet_telemetry.redaction import process_secrets
from skillfleet_telemetry.uncaught import log_uncaught
from tests.support.waiting import wait_until
from tests.telemetry.conftest import SECRET, Watched

FIELDS = ("run_id", "skill", "attempt", "trace_id")


def lines_of(seen: Watched, run_id: str) -> list[dict[str, Any]]:
    lines = [line for line in seen.worker.text().splitlines() if line.startswith("{")]
    parsed = [json.loads(line) for line in lines]
    return [line for line in parsed if line.get("run_id") == run_id]


def test_each_line_of_a_run_names_it_and_hides_its_secrets(seen: Watched) -> None:
    run = seen.fleet.enqueue("watched.logs")
    wait_until(lambda: run.status().finished_at, what="the run's end")
    status = run.status()
    assert status.state is RunState.FAILED
    wait_until(
        lambda: any("raised" in line["event"] for line in lines_of(seen, run.id)),
        what="Celery's line about the end",
    )
    by_logger = {line["logger"]: line for line in lines_of(seen, run.id)}
    expected = {
        "run_id": run.id,
        "skill": "watched.logs",
        "attempt": 1,
        "trace_id": status.trace_id,
    }
    for logger in ("some.library", "mine", "in.thread", "celery.app.trace"):
        line = by_logger[logger]
        assert {name: line.get(name) for name in FIELDS} == expected, logger
    assert "celery.worker.strategy" not in by_logger, "Celery's line of a received message"
    assert by_logger["mine"]["number"] == 1
    assert by_logger["some.library"]["level"] == "warning"
    text = seen.worker.text()
    for spelling in (SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1]):
        assert spelling not in text
    assert HIDDEN in text


def test_a_run_that_succeeds_writes_one_line(seen: Watched) -> None:
    run = seen.fleet.enqueue("fleet.echo", {"text": "quiet"})
    assert run.result(timeout=60)
    wait_until(lambda: lines_of(seen, run.id), what="the run's line")
    # Lines keep their order: earlier lines of this run are written before its last.
    later = seen.fleet.enqueue("fleet.echo", {"text": "later"})
    wait_until(lambda: lines_of(seen, later.id), what="the later run's line")
    (line,) = lines_of(seen, run.id)
    assert line.pop("timestamp") < lines_of(seen, later.id)[0]["timestamp"]
    assert 0 <= line.pop("duration") < 60
    assert 0 <= line.pop("queue_wait") < 60
    assert line == {
        "level": "info",
        "event": "run succeeded",
        "logger": "skillfleet.runs",
        "run_id": run.id,
        "skill": "fleet.echo",
        "attempt": 1,
        "trace_id": run.status().trace_id,
        "state": "succeeded",
    }


def test_a_run_that_fails_says_why_without_its_secrets(seen: Watched) -> None:
    run = seen.fleet.enqueue("watched.logs")
    wait_until(lambda: run.status().finished_at, what="the run's end")

    def ends() -> list[dict[str, Any]]:
        return [line for line in lines_of(seen, run.id) if line["logger"] == "skillfleet.runs"]

    wait_until(ends, what="the run's line")
    (line,) = ends()
    assert (line["event"], line["state"], line["code"]) == ("run failed", "failed", "skill_error")
    assert HIDDEN in line["reason"]


def test_errors_that_python_prints_itself_are_lines_without_secrets(seen: Watched) -> None:
    assert seen.fleet.enqueue("watched.fails_unseen").result(timeout=60) is None

    def lines() -> list[str]:
        return [line for line in seen.worker.text().splitlines() if ".uncaught" in line]

    wait_until(lambda: len(lines()) >= 2, what="both lines")
    thread, thrown_away = (json.loads(line) for line in lines()[:2])
    assert "plain-thread" in thread["event"]
    assert "ValueError: in a thread with [secret]" in thread["exception"]
    assert "_Unlucky.__del__" in thrown_away["event"]
    assert "ValueError: thrown away with [secret]" in thrown_away["exception"]
    text = seen.worker.text()
    assert SECRET not in text
    assert not [line for line in text.splitlines() if "Traceback" in line and line[0] != "{"]


def test_hooks_for_errors_that_python_prints_are_put_back() -> None:
    before = threading.excepthook, sys.unraisablehook
    try:
        threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__
        undo = log_uncaught()
        assert threading.excepthook is not threading.__excepthook__
        assert sys.unraisablehook is not sys.__unraisablehook__
        own = threading.excepthook
        log_uncaught()()
        assert threading.excepthook is own, "a hook that is there stays"
        undo()
        assert threading.excepthook is threading.__excepthook__
        assert sys.unraisablehook is sys.__unraisablehook__
    finally:
        threading.excepthook, sys.unraisablehook = before


def test_a_terminal_gets_readable_lines_and_a_pipe_json(
    own_root: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "console")
    logging.getLogger("some").info("plain %s", "text")
    assert "plain text" in (text := capfd.readouterr().err)
    assert not text.startswith("{")
    logs.configure("INFO", "auto")
    logging.getLogger("some").info("plain %s", "text")
    line = json.loads(capfd.readouterr().err)
    assert (line["event"], line["level"], line["logger"]) == ("plain text", "info", "some")


def test_an_error_in_a_json_line_carries_its_traceback(
    own_root: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    try:
        int("inside")
    except ValueError:
        logging.getLogger("some").exception("failed")
    assert "ValueError: invalid literal" in json.loads(capfd.readouterr().err)["exception"]


def test_a_run_does_not_leave_its_name_on_later_lines(
    own_root: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    logs.begin_run("r1", "a.b")
    logs.log_fields()["attempt"] = 2
    logging.getLogger("some").info("inside")
    logs.end_run()
    logging.getLogger("some").info("behind")
    inside, behind = map(json.loads, capfd.readouterr().err.splitlines())
    assert (inside["run_id"], inside["skill"], inside["attempt"]) == ("r1", "a.b", 2)
    assert not {"run_id", "skill", "attempt"} & behind.keys()


def test_lines_below_the_level_are_not_written(
    own_root: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("WARNING", "json")
    logging.getLogger("some").info("unheard")
    structlog.get_logger("some").info("unheard")
    assert capfd.readouterr().err == ""


KEY = """-----BEGIN KEY-----
it's "theirs" \\ ours
-----END KEY-----"""


def quoted_in_a_dict() -> None:
    logging.getLogger("some").warning("settings %r", {"key": KEY})


def quoted_as_bytes() -> None:
    logging.getLogger("some").warning("header %r", KEY.encode() + b"'")


def quoted_as_json() -> None:
    structlog.get_logger("some").warning("settings", stored=json.dumps({"key": KEY}))


def in_a_field() -> None:
    structlog.get_logger("some").warning("settings", stored={"key": [KEY, {KEY}]})


def in_a_cause() -> None:
    """The key is also in a local variable here, where it is too long for a terminal's line."""
    local = KEY

    def fails() -> None:
        raise ValueError(local) from KeyError(local)

    try:
        fails()
    except ValueError:
        logging.getLogger("some").exception("failed")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "report", [quoted_in_a_dict, quoted_as_bytes, quoted_as_json, in_a_field, in_a_cause]
)
def test_a_secret_of_several_lines_is_hidden_however_a_line_quotes_it(
    own_root: None, capfd: pytest.CaptureFixture[str], form: str, report: Callable[[], None]
) -> None:
    process_secrets.register(KEY)
    logs.configure("INFO", form)
    report()
    said = capfd.readouterr().err
    assert HIDDEN in said
    assert not any(word in said for word in ("BEGIN", "theirs", "END")), said
