"""Output of the command: answers on stdout, everything else on stderr.

Much of it is untrusted text from skills, callers, workers and messages. All of it is made
printable here, before it reaches a console, a table or a line of JSON.
"""

import json
import math
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import orjson
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skillfleet.contracts import RunState
from skillfleet.printable import printable, printable_json, printable_line

_UNCUT = 500
"""Columns of a console that is not a terminal: a pipe has no width."""
_KILO = 1000

STATE_STYLES = {
    RunState.QUEUED: "blue",
    RunState.RUNNING: "cyan",
    RunState.WAITING: "bright_yellow",
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.CANCELLED: "yellow",
    RunState.TIMED_OUT: "red",
    RunState.DEAD: "magenta",
}


class SafeConsole(Console):
    """A console without markup that prints untrusted text safely."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print the objects; line breaks in texts are kept."""
        super().print(*(_safe(each) for each in objects), **options)


def console(*, stderr: bool = False, soft_wrap: bool = True) -> SafeConsole:
    """Return a console on stdout or stderr that never truncates output to a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return SafeConsole(
        stderr=stderr,
        width=None if stream.isatty() else _UNCUT,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=soft_wrap,
    )


def styled(*parts: str | tuple[str, str]) -> Text:
    """Join texts, some with a style, into one line; rich would silently drop some controls."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((printable_line(text), style) for text, style in pairs))


def write_text(text: str) -> str:
    """Write a skill's text to stdout at once: unchanged into a pipe, made safe on a terminal.

    Returns what was written.
    """
    shown = printable(text) if sys.stdout.isatty() else text
    sys.stdout.write(shown)
    sys.stdout.flush()
    return shown


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout at once; pydantic models become their fields."""
    sys.stdout.write(printable_json(_to_json(value)) + "\n")
    sys.stdout.flush()


def pretty_json(value: Any) -> str:
    """Return indented JSON."""
    return printable_json(_to_json(value, orjson.OPT_INDENT_2))


def words(value: Any) -> str:
    """Format a payload's value: text unchanged, '' for None, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else printable_json(_to_json(value))


def number(value: Any) -> float | None:
    """Return the value if it is a finite number, else None; booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


class Listing:
    """A table without borders, one line per row; only the last column is truncated."""

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
        row = [_safe(cell) if isinstance(cell, Text) else styled(cell) for cell in cells]
        row[-1].no_wrap, row[-1].overflow = True, "ellipsis"
        self._table.add_row(*row)

    def print(self) -> None:
        """Print the table on stdout."""
        console().print(self._table)


def size(count: float) -> str:
    """Format a number of bytes: 830 B, 12.3 kB, 4.0 MB."""
    for unit in ("B", "kB", "MB"):
        if count < _KILO:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} GB"


def duration(span: timedelta | float | None) -> str:
    """Format a time span: 12 ms, 3.4 s, 5 min 10 s, 2 h 3 min; '' for None."""
    if span is None:
        return ""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if not math.isfinite(seconds):
        return f"{seconds} s"
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
    """Format an age in one unit: 12 s, 5 min, 3 h, 2 d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size_of in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size_of:
            return f"{seconds // size_of} {unit}"
    return f"{seconds} s"


def clock(at: datetime | None) -> str:
    """Format a time in the local zone; '' for None."""
    if at is None:
        return ""
    # The first and the last day of the calendar have no local time in some zones.
    with suppress(OverflowError, ValueError, OSError):
        at = at.astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _safe(value: Any) -> Any:
    """Make a text printable; a table or a bar is returned unchanged."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Text) and (shown := printable(value.plain)) != value.plain:
        return Text(shown, value.style)
    return value


def _to_json(value: Any, option: int = 0) -> str:
    try:
        return orjson.dumps(value, default=_jsonable, option=option).decode()
    except TypeError:
        # A whole number of more than 64 bits, or half of a surrogate pair.
        return json.dumps(value, default=_jsonable, indent=2 if option else None)


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
