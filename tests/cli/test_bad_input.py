"""Whatever is wrong ends in one clear line and an exit code, never in a traceback."""

import json
import os
import re

import pytest
from typer.testing import CliRunner

from skillfleet_cli.app import app
from skillfleet_cli.arguments import parse_arguments
from skillfleet_cli.exits import CommandError, ExitCode, explain
from tests.cli.commands import AGENTS, Shell
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "nope"), "there is no run 'nope'"),
        (("events", "nope"), "there is no run 'nope'"),
        (("cancel", "nope"), "there is no run 'nope'"),
        (("enqueue", "kit.nope"), "known skills: "),
        (("enqueue", "kit.add", '{"x": "one"}'), 'x: "one" is not of type "integer"'),
        (("enqueue", "kit.add", "{x"), "'{x' is not valid JSON"),
        (("enqueue", "kit.add", "--arg", "x=1", "--timeout", "-1"), "timeout must be"),
        (("events", "nope", "--after", "first"), "'first' is not an event id"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    shell: Shell, arguments: tuple[str, ...], message: str
) -> None:
    result = shell.run(*arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize(
    ("source", "pairs", "message"),
    [
        ("[1]", [], "must be a JSON object with the skill's arguments by name, not list"),
        ("@no.json", [], "cannot read 'no.json'"),
        (None, ["x"], "--arg 'x' must be name=value"),
        (None, ["=1"], "--arg '=1' must be name=value"),
    ],
)
def test_arguments_that_cannot_be_read_say_what_to_write(
    source: str | None, pairs: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=re.escape(message)):
        parse_arguments(source, pairs)


def test_arguments_of_the_command_that_are_not_utf8_are_refused(bare: Shell) -> None:
    result = bare.run("enqueue", "kit.add", "--arg", os.fsdecode(b"x=\xff\xfe"))
    assert result.code == 2
    assert "is not UTF-8" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "pairs", "message"),
    [
        ('{"a": {"b": [1, 18446744073709551616]}}', [], "a.b[1]: 18446744073709551616 has more"),
        ('{"a": -9223372036854775809}', [], "a: -9223372036854775809 has more than 64 bits"),
        (None, ["n=123456789012345678901234567890"], "n: 123456789012345678901234567890 has more"),
        (None, [f"n={'9' * 5000}"], "n: "),
        ('{"a": [1e999]}', [], "a[0]: JSON cannot represent NaN or infinity"),
        ('{"a": NaN}', [], "a: JSON cannot represent NaN"),
        ('{"a": -Infinity}', [], "a: JSON cannot represent NaN"),
        (None, ["n=NaN"], "n: JSON cannot represent NaN"),
        (None, ['n={"x": 1e999}'], "n.x: JSON cannot represent NaN"),
        ('{"a": "\\ud800"}', [], "a: half of a surrogate pair"),
        ('{"\\ud800": 1}', [], "a name in the arguments: half of a surrogate pair"),
        (None, [f"n={'[' * 300}{']' * 300}"], "nested deeper than 200 levels"),
        ("[" * 100_000, [], "nested deeper than 200 levels"),
    ],
    ids=range(13),
)
def test_what_json_cannot_carry_unchanged_is_refused_by_name(
    source: str | None, pairs: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=re.escape(message)) as refused:
        parse_arguments(source, pairs)
    assert refused.value.code == ExitCode.USAGE


def test_numbers_of_64_bits_and_all_letters_arrive_as_they_are(shell: Shell) -> None:
    given = {
        "n": 2**64 - 1,
        "m": -(2**63),
        "exact": 9007199254740993,
        "text": "caf\u00e9 \U0001f600",
    }
    assert parse_arguments(json.dumps(given), []) == given
    assert parse_arguments(None, [f"n={2**64 - 1}"]) == {"n": 2**64 - 1}
    arguments = json.dumps({"events": [["my.kind", given]]})
    (shell.folder / "utf8.json").write_bytes(b"\xef\xbb\xbf" + arguments.encode())
    for source in (arguments, "@utf8.json"):
        lines = shell.run("enqueue", "kit.plays", source, "--follow", "--json").json_lines
        (event,) = (line for line in lines if line.get("kind") == "my.kind")
        assert event["payload"] == given


def test_what_is_not_utf8_is_refused(shell: Shell) -> None:
    (shell.folder / "latin.json").write_bytes(b'{"x": "caf\xe9"}')
    result = shell.run("enqueue", "kit.add", "@latin.json")
    assert result.code == 2
    assert "the content of latin.json is not UTF-8" in result.err


def test_a_value_that_is_no_json_is_text() -> None:
    pairs = ["a=1", "b=one", 'c="1"', "d=", "e=x=y", "f=[1]"]
    values = {"a": 1, "b": "one", "c": "1", "d": "", "e": "x=y", "f": [1]}
    assert parse_arguments('{"a": 0, "z": null}', pairs) == values | {"z": None}


def test_a_wrong_option_shows_the_usage() -> None:
    result = CliRunner().invoke(app, ["runs", "--state", "happy"])
    assert result.exit_code == 2
    assert "Usage" in result.output
    assert "timed_out" in result.output


def test_an_unreachable_redis_is_reported_within_the_timeout(shell: Shell) -> None:
    settings = {"SKILLFLEET_REDIS_TIMEOUT_SECONDS": "0.5"}
    away = Shell(f"redis://127.0.0.1:{free_port()}/0", shell.folder, settings)
    result = away.run("enqueue", "kit.add", '{"x": 1}')
    assert result.code == 5
    assert "did not answer within 0.5 s" in result.err
    assert "SKILLFLEET_REDIS_URL" in result.err
    assert result.err.count("\n") == 1


def test_a_bad_setting_names_its_variable(shell: Shell) -> None:
    wrong = Shell("http://127.0.0.1", shell.folder)
    result = wrong.run("runs")
    assert result.code == 2
    assert "SKILLFLEET_REDIS_URL" in result.err


def test_debug_shows_the_traceback(shell: Shell) -> None:
    result = shell.run("--debug", "status", "nope")
    assert result.code == 2
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("skillfleet: there is no run")


def test_an_unexpected_error_is_reported_as_a_bug() -> None:
    assert explain(ZeroDivisionError("by zero")) == ("ZeroDivisionError: by zero", ExitCode.BUG)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "module 'bad' has no agent"),
        ("x = 1 / 0", "line 1: ZeroDivisionError"),
        ("def (", "bad.py, line 1: invalid syntax"),
        (None, "there is no file 'bad.py'"),
    ],
)
def test_a_worker_refuses_a_module_that_it_cannot_serve(
    bare: Shell, source: str | None, message: str
) -> None:
    if source is not None:
        (bare.folder / "bad.py").write_text(source)
    result = bare.run("worker", "bad.py")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_worker_without_modules_says_what_to_name(bare: Shell) -> None:
    result = bare.run("worker")
    assert result.code == 2
    assert "SKILLFLEET_MODULES" in result.err


def test_an_argument_unknown_to_celery_is_reported(bare: Shell) -> None:
    result = bare.run("worker", AGENTS, "--", "--nonsense")
    assert result.code == 2
    assert "Celery's worker: No such option" in result.err


def test_dev_refuses_a_taken_port(shell: Shell) -> None:
    taken = shell.url.rpartition(":")[2].removesuffix("/0")
    result = shell.run("dev", AGENTS, "--redis-port", taken, "--no-flower")
    assert result.code == 2
    assert f"port {taken} is in use" in result.err
    assert "--redis-port" in result.err


def test_dev_refuses_a_module_that_is_not_there(bare: Shell) -> None:
    result = bare.run("dev", "no_such_module", "--redis-port", str(free_port()), "--no-flower")
    assert result.code == 2
    assert "no such module: 'no_such_module'" in result.err
