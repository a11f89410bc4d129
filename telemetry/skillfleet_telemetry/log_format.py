"""Formatters of log lines: JSON for machines, coloured text for a terminal.

Whatever is logged, a line is written, its secrets are hidden, and it harms no terminal.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from opentelemetry import trace

from skillfleet.printable import printable, printable_json
from skillfleet_telemetry.lean_structlog import structlog
from skillfleet_telemetry.redaction import process_secrets, redact, redact_value
from skillfleet_telemetry.tame import message_of, safe_repr, tame, trace_of, unfilled

Fields = dict[str, Any]

FIELDS: Final = "skillfleet_fields"
"""The attribute of a record whose dict becomes fields of its line: `extra={FIELDS: {...}}`."""

run_fields: ContextVar[Fields | None] = ContextVar("skillfleet_log_fields", default=None)
"""The fields of the run whose code executes in this context."""


def chain() -> list[Any]:
    """Return structlog's processors for every event, before it reaches a formatter."""
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_run,
    ]


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    A record of standard logging takes no detour over structlog's processors, and a line is
    searched for secrets once, as a whole: its values are only looked at where one occurs.
    """

    ascii_only = False
    """True when the stream's encoding lacks characters, which are then written as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        try:
            event = _event_of(record)
        except Exception:  # noqa: BLE001 - a value whose code fails must not lose the line
            event = _event_of(_tamed(record))
        line = _to_json(event)
        if process_secrets.may_occur_in_json(line):
            line = orjson.dumps(redact_value(orjson.loads(line))).decode()
        line = printable_json(line)
        return json.dumps(orjson.loads(line)) if self.ascii_only else line


class ConsoleFormatter(structlog.stdlib.ProcessorFormatter):
    """Lines for people; secrets are hidden in the values and in the finished line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        try:
            line = super().format(record)
        except Exception:  # noqa: BLE001 - a value whose code fails must not lose the line
            line = super().format(_tamed(record))
        return redact(line)


def console_formatter() -> ConsoleFormatter:
    """Return the formatter for a terminal; coloured where stderr is one."""
    # structlog's own tracebacks show local variables, cut off: half a secret is not recognised.
    plain = structlog.dev.plain_traceback
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=plain
    )
    return ConsoleFormatter(
        foreign_pre_chain=[*chain(), _add_record_fields],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _add_exception,
            _hide_secrets,
            _for_people,
            renderer,
        ],
    )


def fill_in(logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
    """Put positional arguments into the text, or after it where they do not fit."""
    try:
        return _positional(logger, name, event)
    except Exception:  # noqa: BLE001 - the arguments' own code
        event["event"] = unfilled(event.get("event"), event.pop("positional_args", ()))
        return event


class BoundLogger(structlog.stdlib.BoundLogger):
    """structlog's logger, which raises nothing where something is logged."""

    def _proxy_to_logger(
        self, method_name: str, event: str | None = None, *event_args: str, **event_kw: Any
    ) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, *event_args, **event_kw)
        except Exception:  # noqa: BLE001 - such as a field with the name of one of structlog's own
            level = logging.getLevelNamesMapping().get(method_name.upper(), logging.ERROR)
            with suppress(Exception):
                self._logger.log(level, unfilled(event, (*event_args, event_kw)))


_positional = structlog.stdlib.PositionalArgumentsFormatter()


def _event_of(record: logging.LogRecord) -> MutableMapping[str, Any]:
    """Return the fields of a line, in order."""
    level = record.levelname.lower()
    given: Any = record.msg
    if hasattr(record, "_logger") and isinstance(given, dict):
        # structlog's event: its processors have run where it was logged.
        other: Fields = _add_exception(None, level, dict(given))
        first = {name: other.pop(name) for name in _FIRST if name in other}
        return first | other
    event: MutableMapping[str, Any] = {
        "timestamp": _iso(record.created),
        "level": level,
        "event": record.getMessage(),
        "logger": record.name,
    }
    if record.exc_info:
        event["exc_info"] = record.exc_info
        event = _add_exception(None, level, event)
    if record.stack_info:
        event["stack_info"] = record.stack_info
    return _add_record_fields(None, level, _add_run(None, level, event), record)


_FIRST = ("timestamp", "level", "event")


def _iso(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")


def _tamed(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy of a record that nothing can go wrong with."""
    copy = logging.makeLogRecord(record.__dict__)
    if hasattr(record, "_logger"):
        # structlog's: the fields; an error in them is written by a processor.
        given: Any = record.msg
        copy.msg = tame(given) | {name: given[name] for name in given.keys() & {"exc_info"}}
    else:
        copy.msg, copy.args = message_of(record), ()
    return copy


def _to_json(event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event, default=safe_repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except Exception:  # noqa: BLE001 - what JSON cannot carry, or a `repr` that fails
        return orjson.dumps(tame(event)).decode()


def _add_exception(logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
    exc_info = event.get("exc_info")
    try:
        return structlog.processors.format_exc_info(logger, name, event)
    except Exception:  # noqa: BLE001 - no error at all, or one that cannot be written
        event.pop("exc_info", None)
        event["exception"] = trace_of(exc_info)
        return event


def _add_run(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    fields = run_fields.get()
    if fields:
        for name, value in fields.items():
            event.setdefault(name, value)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event.setdefault("trace_id", trace.format_trace_id(span.trace_id))
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _add_record_fields(
    _: Any,
    __: str,
    event: MutableMapping[str, Any],
    record: logging.LogRecord | None = None,
) -> MutableMapping[str, Any]:
    """Add what a record of standard logging carries beside its text, Celery's task included."""
    attributes = vars(record or event["_record"])
    data, fields = attributes.get("data"), attributes.get(FIELDS)
    if isinstance(data, dict) and "id" in data and "name" in data:
        event.setdefault("run_id", data["id"])
        event.setdefault("skill", data["name"])
    if isinstance(fields, dict):
        event.update(fields)
    return event


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact values before they are quoted again: some hold secrets that are quoted already."""
    redacted: dict[str, Any]
    try:
        redacted = redact_value(dict(event))
    except Exception:  # noqa: BLE001 - a value that contains itself, or is too deep
        redacted = redact_value(tame(event))
    return redacted


def _for_people(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Make the texts of others printable, in whatever value they are."""
    return {printable(str(name)): _shown(value) for name, value in event.items()}


def _shown(value: object) -> Any:
    if isinstance(value, str):
        return printable(value)
    return value if value is None or isinstance(value, bool | int | float) else _Shown(value)


class _Shown:
    """A value whose `repr` is printable."""

    def __init__(self, value: object) -> None:
        self._text = printable(safe_repr(value))

    def __repr__(self) -> str:
        return self._text
