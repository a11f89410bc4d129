"""Any logged value yields a line, and the logging call never raises."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from skillfleet.redaction import HIDDEN, SecretRegistry
from skillfleet_telemetry import log_format, logs
from skillfleet_telemetry.redaction import process_secrets

KEY = "a key of twelve letters"


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class NoText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class NoItems(dict[str, int]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no items")

    def items(self) -> Any:
        raise RuntimeError("no items")


class NoClass:
    """An object for which even `isinstance` fails."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise RuntimeError("no class")


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@dataclass
class Box:
    content: object


class Steers:
    def __repr__(self) -> str:
        return "\x1b]0;title\x07 \x9b2J \u202e"


def circle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = [value, value]
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: dict[str, object] = {
    "half of a pair": "file caf\udce9.txt",
    "half of a pair inside": ["\ud800", {"\udfff": "\ud83d"}],
    "no number": [float("nan"), float("inf")],
    "70 bits": 2**70,
    "thousands of digits": -(10**5000),
    "keys of all kinds": {1: 1, "1": 2, None: 3, (1, 2): 4, b"\xff": 5, 2.5: 6},
    "without a repr": NoRepr(),
    "without a repr inside": {"x": [NoRepr(), {NoRepr()}]},
    "without a text": NoText("x"),
    "without items": NoItems(a=1),
    "a circle": circle(),
    "a circle in a dataclass": Box(circle()),
    "300 levels": nested(300),
    "100,000 levels": nested(100_000),
    "an error without a text": SilentError(),
    "controls": "\x1b]0;title\x07\r\n\x7f\x9b2J\u202e\u2028",
    "controls in a repr": Steers(),
    "a megabyte": "x" * 1_000_000,
    "bytes": [b"\xff", memoryview(b"x")],
}


def message(value: object) -> None:
    logging.getLogger("mine").warning("reported %s", value)


def no_message(value: object) -> None:
    logging.getLogger("mine").warning(value)


def no_place(value: object) -> None:
    logging.getLogger("mine").warning("reported %d %d", value)  # noqa: PLE1206 - what this is about


def extra(value: object) -> None:
    logging.getLogger("mine").warning("reported", extra={"value": value})


def raised(value: object) -> None:
    def fails() -> None:
        raise SilentError from ValueError(value)

    try:
        fails()
    except SilentError:
        logging.getLogger("mine").exception("reported")


def no_error(value: object) -> None:
    logging.getLogger("mine").warning("reported", exc_info=value)  # type: ignore[arg-type]


def field(value: object) -> None:
    structlog.get_logger("mine").warning("reported", value=value)


def event(value: object) -> None:
    structlog.get_logger("mine").warning(value)


def no_field(value: object) -> None:
    structlog.get_logger("mine").warning("reported %d %d", value)


def reserved(value: object) -> None:
    structlog.get_logger("mine").warning(
        "reported", _record=value, level=value, positional_args=value
    )


def field_and_error(value: object) -> None:
    structlog.get_logger("mine").warning("reported", value=value, exc_info=value)


WAYS: list[Callable[[object], None]] = [
    *(message, no_message, no_place, extra, raised, no_error),
    *(field, event, no_field, reserved, field_and_error),
]


@pytest.mark.parametrize("report", WAYS)
@pytest.mark.parametrize("what", VALUES)
def test_one_line_of_json_is_written_whatever_the_value(
    own_root: None, capfd: pytest.CaptureFixture[str], what: str, report: Callable[[object], None]
) -> None:
    logs.configure("INFO", "json")
    report(VALUES[what])
    (line,) = capfd.readouterr().err.splitlines()
    parsed = json.loads(line)
    assert parsed["logger"] == "mine"
    assert parsed["level"] == ("error" if report is raised else "warning")
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", line)


@pytest.mark.parametrize("report", [field, event, no_field, field_and_error])
def test_an_object_that_refuses_its_class_is_written_as_well(
    own_root: None, capfd: pytest.CaptureFixture[str], report: Callable[[object], None]
) -> None:
    logs.configure("INFO", "json")
    report(NoClass())
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["logger"] == "mine"


@pytest.mark.parametrize("what", VALUES)
def test_no_value_can_control_a_terminal(
    own_root: None, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    logs.configure("INFO", "console")
    for report in WAYS:
        report(VALUES[what])
    said = capfd.readouterr().err
    assert said.count("[mine]") == len(WAYS)
    assert "Logging error" not in said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said)


def test_what_can_be_reported_of_such_values_is_reported(
    own_root: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    value = {(1, 2): 2**70, "text": "caf\udce9", "odd": NoRepr(), "fine": [1, "two"]}
    structlog.get_logger("mine").warning("reported", value=value)
    reported = json.loads(capfd.readouterr().err)["value"]
    assert reported == {
        "(1, 2)": hex(2**70),
        "text": "caf\\udce9",
        "odd": "<NoRepr without a repr: RuntimeError>",
        "fine": [1, "two"],
    }
    logging.getLogger("mine").warning("only %s and %s", "one")  # noqa: PLE1206 - as above
    assert json.loads(capfd.readouterr().err)["event"] == "only %s and %s ['one']"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("what", ["circle", "half", "keys", "arguments"])
def test_a_secret_is_hidden_in_such_values_too(
    own_root: None, capfd: pytest.CaptureFixture[str], form: str, what: str
) -> None:
    process_secrets.register(KEY)
    logs.configure("INFO", form)
    values: dict[str, Any] = {
        "circle": circle() | {KEY: KEY},
        "half": [f"\ud800{KEY}"],
        "keys": {(KEY, 1): KEY, KEY: Box(KEY)},
        "arguments": KEY,
    }
    field(values[what])
    no_field(values[what])
    no_place(values[what])
    said = capfd.readouterr().err
    assert HIDDEN in said
    assert KEY not in said


def test_another_handler_that_fails_adds_nothing_between_the_lines(
    own_root: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO", "json")
    logging.getLogger().addHandler(logging.StreamHandler())
    logging.getLogger("mine").warning("reported %d", "x")
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "reported %d ['x']"


SAYS = """
import logging
from skillfleet_telemetry import log_format, logs
logs.configure("INFO", "json")
logging.getLogger("mine").warning("caf\\u00e9 \\u2603 \\x9b")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_line_is_json_in_every_encoding_of_stderr(encoding: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", SAYS],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    ).stderr
    assert json.loads(said.decode(encoding))["event"] == "caf\u00e9 \u2603 \x9b"


@settings(deadline=None)
@given(
    secret=st.text(min_size=4, max_size=12).filter(lambda text: text not in HIDDEN),
    way=st.sampled_from([str, repr, json.dumps, lambda text: json.dumps(json.dumps(text))]),
    before=st.text(max_size=3),
)
def test_no_secret_is_in_a_json_line_however_its_value_quotes_it(
    secret: str, way: Callable[[str], str], before: str
) -> None:
    """Lines are searched as a whole, so their own quoting must not hide a secret."""
    registry = SecretRegistry()
    registry.register(secret)
    record = logging.LogRecord("mine", logging.INFO, "", 0, "%s", ("x",), None)
    setattr(record, logs.FIELDS, {"field": way(before + secret)})
    with patch.multiple(log_format, process_secrets=registry, redact_value=registry.redact_value):
        line = log_format.JsonFormatter().format(record)
    assert HIDDEN in json.loads(line)["field"]
