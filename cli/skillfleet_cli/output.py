"""What the command prints: answers on stdout, everything else on stderr."""

import sys
from datetime import datetime, timedelta
from typing import Any

import orjson
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skillfleet.contracts import RunState

_UNCUT = 500
"""Columns of a console that is no terminal: a pipe has no edge to fit in."""
_KILO = 1000

STATE_STYLES = {
    RunState.QUEUED: "blue",
    RunState.RUNNING: "cyan",
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.CANCELLED: "yellow",
    RunState.TIMED_OUT: "red",
    RunState.DEAD: "magenta",
}


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that never cuts what goes into a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNCUT
    return Console(stderr=stderr, width=width, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once; pydantic models count as their fields."""
    line = orjson.dumps(value, default=_jsonable, option=orjson.OPT_APPEND_NEWLINE)
    sys.stdout.write(line.decode())
    sys.stdout.flush()


def pretty_json(value: Any) -> str:
    """JSON for a person."""
    return orjson.dumps(value, default=_jsonable, option=orjson.OPT_INDENT_2).decode()


class Listing:
    """A table without frames, one line a row; a terminal's edge cuts only the last column."""

    def __init__(self, *columns: str, header: bool = True) -> None:
        self._table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            header_style="bold",
            show_header=header,
        )
        for name in columns[:-1]:
            self._table.add_column(name, no_wrap=True)
        self._table.add_column(columns[-1])

    def add(self, *cells: str | Text) -> None:
        """Add a row."""
        last = cells[-1] if isinstance(cells[-1], Text) else Text(cells[-1])
        last.no_wrap, last.overflow = True, "ellipsis"
        self._table.add_row(*cells[:-1], last)

    def print(self) -> None:
        """Print it on stdout."""
        console().print(self._table)


def size(count: float) -> str:
    """Bytes for a person: 830 B, 12.3 kB, 4.0 MB."""
    for unit in ("B", "kB", "MB"):
        if count < _KILO:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} GB"


def duration(span: timedelta | float | None) -> str:
    """A time span for a person: 12 ms, 3.4 s, 5 min 10 s, 2 h 3 min; '' for None."""
    if span is None:
        return ""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def age(span: timedelta) -> str:
    """How long ago, for a person, in one unit: 12 s, 5 min, 3 h, 2 d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size_of in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size_of:
            return f"{seconds // size_of} {unit}"
    return f"{seconds} s"


def clock(at: datetime | None) -> str:
    """A local time for a person; '' for None."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at is not None else ""


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")
