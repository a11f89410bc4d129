"""Log lines: structlog's processors on standard logging, so that libraries' lines get the same.

JSON where nobody watches, colours in a terminal. Each line of a run carries `run_id`, `skill`,
`attempt` and `trace_id`; the values of secrets that were read are hidden.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import orjson
from opentelemetry import trace

from skillfleet_worker.telemetry.lean_structlog import structlog
from skillfleet_worker.telemetry.redaction import redact, redact_value

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
    handler: logging.Handler = (
        logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.stderr)
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_run,
    ]
    handler.setFormatter(_formatter(shared, as_json=writes_json(form, logfile)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Hides secrets in the finished line, wherever in it they stand."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return redact(super().format(record))


def _formatter(shared: list[Any], *, as_json: bool) -> RedactingFormatter:
    ends: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _hide_secrets,
    ]
    if as_json:
        ends += [_in_order, _to_json]
    else:
        # Its own tracebacks would show the local variables, cut off: no secret is known by half.
        plain = structlog.dev.plain_traceback
        colours = sys.stderr.isatty()
        ends += [
            structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0, exception_formatter=plain)
        ]
    return RedactingFormatter(foreign_pre_chain=[*shared, _take_celerys_data], processors=ends)


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
    quiet: dict[str, Any] = redact_value(dict(event))
    return quiet


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return first | dict(event)


def _to_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return orjson.dumps(event, default=_told, option=orjson.OPT_NON_STR_KEYS).decode()


def _told(value: object) -> str:
    return redact(repr(value))
