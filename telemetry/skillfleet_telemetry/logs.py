"""Log lines: structlog's processors on standard logging, so that libraries' lines get the same.

JSON where nobody watches, colours in a terminal. Each line of a run carries `run_id`, `skill`,
`attempt` and `trace_id`; the values of secrets that were read are hidden. Whatever is logged, a
line of it is written, and nothing is raised where it was logged.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import orjson
from opentelemetry import trace

from skillfleet.printable import printable, printable_json
from skillfleet_telemetry.lean_structlog import structlog
from skillfleet_telemetry.redaction import redact, redact_value
from skillfleet_telemetry.tame import message_of, tame, told, trace_of, unfilled

Fields = dict[str, Any]

_fields: ContextVar[Fields | None] = ContextVar("skillfleet_log_fields", default=None)


def log_fields() -> Fields:
    """The fields of the run whose code runs here; a dict to add to."""
    fields = _fields.get()
    if fields is None:
        fields = {}
        _fields.set(fields)
    return fields


def begin_run(run_id: str, skill: str) -> None:
    """From here on, lines of this context (thread, task or greenlet) belong to a run.

    What is known of that run already stays.
    """
    fields = _fields.get()
    if fields is None or fields.get("run_id") != run_id:
        _fields.set({"run_id": run_id, "skill": skill})


def end_run() -> None:
    """Lines of this context belong to no run any more."""
    _fields.set(None)


def writes_json(form: str, logfile: str | None = None) -> bool:
    """Whether lines are JSON; `form` is auto, json or console."""
    return form == "json" or (form == "auto" and (bool(logfile) or not sys.stderr.isatty()))


def configure(level: int | str, form: str, logfile: str | None = None) -> None:
    """Set up the root logger and structlog; `form` is auto, json or console."""
    as_json = writes_json(form, logfile)
    handler = _FileHandler(logfile, encoding="utf-8") if logfile else _StreamHandler(sys.stderr)
    # Python's own report of a handler's error, this one's or another's, is many lines of text.
    logging.raiseExceptions = not as_json
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_run,
    ]
    formatter = _formatter(shared, as_json=as_json)
    if isinstance(formatter, JsonFormatter):
        formatter.ascii_only = not _writes_unicode(handler.stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _fill_in,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=_BoundLogger,
        cache_logger_on_first_use=True,
    )


def _writes_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


class _Unfailing(logging.Handler):
    """A handler that raises nothing where something is logged, and prints nothing else."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        # What is left to catch is the end of the stack, which logging itself raises.
        with suppress(Exception):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Stay silent: the stream is gone or full."""


class _StreamHandler(_Unfailing, logging.StreamHandler[Any]):
    """Lines on a stream."""


class _FileHandler(_Unfailing, logging.FileHandler):
    """Lines in a file."""


class _BoundLogger(structlog.stdlib.BoundLogger):
    """structlog's logger, which raises nothing for what is logged."""

    def _proxy_to_logger(
        self, method_name: str, event: str | None = None, *event_args: str, **event_kw: Any
    ) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, *event_args, **event_kw)
        except Exception:  # noqa: BLE001 - such as a field with the name of one of structlog's own
            level = logging.getLevelNamesMapping().get(method_name.upper(), logging.ERROR)
            with suppress(Exception):
                self._logger.log(level, unfilled(event, (*event_args, event_kw)))


class RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Hides secrets in the finished line, wherever in it they stand."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        try:
            line = super().format(record)
        except Exception:  # noqa: BLE001 - whatever it was, the line must not be lost
            line = super().format(_tamed(record))
        return redact(line)


class JsonFormatter(RedactingFormatter):
    """Lines of JSON that harm no terminal."""

    ascii_only = False
    """Whether the stream's encoding lacks letters, which then are written by their numbers."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = printable_json(super().format(record))
        return json.dumps(orjson.loads(line)) if self.ascii_only else line


def _tamed(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of a record that nothing can go wrong with."""
    copy = logging.makeLogRecord(record.__dict__)
    if hasattr(record, "_logger"):
        # structlog's: the fields; an error in them is written by a processor.
        given: Any = record.msg
        copy.msg = tame(given) | {name: given[name] for name in given.keys() & {"exc_info"}}
    else:
        copy.msg, copy.args = message_of(record), ()
    return copy


def _formatter(shared: list[Any], *, as_json: bool) -> RedactingFormatter:
    ends: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _add_exception,
        _hide_secrets,
    ]
    foreign = [*shared, _take_celerys_data]
    if as_json:
        return JsonFormatter(foreign_pre_chain=foreign, processors=[*ends, _in_order, _to_json])
    # Its own tracebacks would show the local variables, cut off: no secret is known by half.
    plain = structlog.dev.plain_traceback
    colours = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer(
        colors=colours, pad_event_to=0, exception_formatter=plain
    )
    return RedactingFormatter(foreign_pre_chain=foreign, processors=[*ends, _for_people, renderer])


_positional = structlog.stdlib.PositionalArgumentsFormatter()


def _fill_in(logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
    """Put positional arguments into the text, or behind it where they do not fit."""
    try:
        return _positional(logger, name, event)
    except Exception:  # noqa: BLE001 - anybody's code
        event["event"] = unfilled(event.get("event"), event.pop("positional_args", ()))
        return event


def _add_exception(logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
    exc_info = event.get("exc_info")
    try:
        return structlog.processors.format_exc_info(logger, name, event)
    except Exception:  # noqa: BLE001 - no error at all, or one that cannot be written
        event.pop("exc_info", None)
        event["exception"] = trace_of(exc_info)
        return event


def _add_run(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    fields = _fields.get()
    if fields:
        for name, value in fields.items():
            event.setdefault(name, value)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event.setdefault("trace_id", trace.format_trace_id(span.trace_id))
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _take_celerys_data(
    _: Any, __: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Celery's own lines about a task carry its id and name beside their text."""
    data = getattr(event.get("_record"), "data", None)
    if isinstance(data, dict) and "id" in data and "name" in data:
        event.setdefault("run_id", data["id"])
        event.setdefault("skill", data["name"])
    return event


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Before the texts are quoted once more: some hold secrets that are quoted already."""
    quiet: dict[str, Any]
    try:
        quiet = redact_value(dict(event))
    except Exception:  # noqa: BLE001 - a value that contains itself, or is too deep
        quiet = redact_value(tame(event))
    return quiet


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return first | dict(event)


def _to_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event, default=_told, option=orjson.OPT_NON_STR_KEYS).decode()
    except Exception:  # noqa: BLE001 - what JSON cannot carry, or a repr that fails
        return orjson.dumps(redact_value(tame(event))).decode()


def _told(value: object) -> str:
    return redact(told(value))


def _for_people(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """For a terminal: texts of others are made printable, in whatever value they stand."""
    return {printable(str(name)): _shown(value) for name, value in event.items()}


def _shown(value: object) -> Any:
    if isinstance(value, str):
        return printable(value)
    return value if value is None or isinstance(value, bool | int | float) else _Shown(value)


class _Shown:
    """A value whose `repr` is printable."""

    def __init__(self, value: object) -> None:
        self._text = printable(told(value))

    def __repr__(self) -> str:
        return self._text
