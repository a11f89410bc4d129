"""Log lines: set-up of standard logging and structlog, and whose lines they are.

JSON unless stderr is a terminal. Each line of a run carries `run_id`, `skill`, `attempt` and
`trace_id`; the values of secrets that were read are hidden. At INFO a run writes one line of its
own, when its attempt has ended; Celery's lines about skills are for DEBUG.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from skillfleet_telemetry.lean_structlog import structlog
from skillfleet_telemetry.log_format import (
    FIELDS,
    BoundLogger,
    Fields,
    JsonFormatter,
    chain,
    console_formatter,
    fill_in,
    run_fields,
)
from skillfleet_telemetry.log_writer import LineHandler

__all__ = ["FIELDS"]

run_logger: Final = logging.getLogger("skillfleet.runs")
"""The logger of one line for each attempt that has ended."""

_CELERYS = ("celery.worker.strategy", "celery.app.trace")


def log_fields() -> Fields:
    """Return the fields of the run whose code executes here; a dict to add to."""
    fields = run_fields.get()
    if fields is None:
        fields = {}
        run_fields.set(fields)
    return fields


def begin_run(run_id: str, skill: str) -> None:
    """Attribute the lines of this context (thread, task or greenlet) to a run.

    Fields that are already known of the same run stay.
    """
    fields = run_fields.get()
    if fields is None or fields.get("run_id") != run_id:
        run_fields.set({"run_id": run_id, "skill": skill})


def end_run() -> None:
    """Attribute the lines of this context to no run."""
    run_fields.set(None)


def writes_json(form: str, logfile: str | None = None) -> bool:
    """Return whether lines are JSON; `form` is auto, json or console."""
    return form == "json" or (form == "auto" and (bool(logfile) or not sys.stderr.isatty()))


def configure(
    level: int | str, form: str, logfile: str | None = None, *, background: bool = False
) -> None:
    """Set up the root logger and structlog; `form` is auto, json or console.

    With `background` a thread writes the lines; each is written where it is logged otherwise.
    """
    as_json = writes_json(form, logfile)
    # Python's own report of a handler's error, this one's or another's, is many lines of text.
    logging.raiseExceptions = not as_json
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        if isinstance(old, LineHandler):
            old.close()
    stream: Any = sys.stderr
    if logfile:
        stream = Path(logfile).open("a", encoding="utf-8")  # noqa: SIM115 - open as long as its handler
    handler = LineHandler(stream, background=background)
    if as_json:
        formatter = JsonFormatter()
        formatter.ascii_only = not _writes_unicode(stream)
        handler.setFormatter(formatter)
    else:
        handler.setFormatter(console_formatter())
    root.addHandler(handler)
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            fill_in,
            *chain(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )


def _writes_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


class SkillLines(logging.Filter):
    """A filter that lowers Celery's lines about skills to DEBUG, since a run has its own line."""

    def __init__(self, is_skill: Callable[[str], bool]) -> None:
        super().__init__()
        self._is_skill = is_skill

    def install(self) -> None:
        """Filter Celery's loggers of tasks, in the place of an earlier filter."""
        for name in _CELERYS:
            logger = logging.getLogger(name)
            for old in [each for each in logger.filters if isinstance(each, SkillLines)]:
                logger.removeFilter(old)
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if record.levelno != logging.INFO or not isinstance(record.args, dict):
            return True
        if not self._is_skill(str(record.args.get("name"))):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
