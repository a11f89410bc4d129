"""What the command prints: answers on stdout, everything else on stderr.

Much of it is text of others: of skills, callers, workers and messages. All of it is made
printable here, on its way into a console, a listing or a line of JSON.
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


class SafeConsole(Console):
    """A console that takes no markup, and prints text of others without harm."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; texts keep their lines."""
        super().print(*(_safe(each) for each in objects), **options)


def console(*, stderr: bool = False, soft_wrap: bool = True) -> SafeConsole:
    """A console on stdout or stderr that never cuts what goes into a pipe."""
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
    """One line out of texts, some with a style; rich itself would drop some controls unseen."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((printable_line(text), style) for text, style in pairs))


def write_text(text: str) -> None:
    """Write a skill's own text on stdout at once: as it is into a pipe, safe on a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once; pydantic models count as their fields."""
    sys.stdout.write(printable_json(_to_json(value)) + "\n")
    sys.stdout.flush()


def pretty_json(value: Any) -> str:
    """JSON for a person."""
    return printable_json(_to_json(value, orjson.OPT_INDENT_2))


def words(value: Any) -> str:
    """A value out of a payload, for a person: text as it is, nothing for None, else JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else printable_json(_to_json(value))


def number(value: Any) -> float | None:
    """The value where it is a finite number, else None; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


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
        row = [_safe(cell) if isinstance(cell, Text) else styled(cell) for cell in cells]
        row[-1].no_wrap, row[-1].overflow = True, "ellipsis"
        self._table.add_row(*row)

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
    """How long ago, for a person, in one unit: 12 s, 5 min, 3 h, 2 d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size_of in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size_of:
            return f"{seconds // size_of} {unit}"
    return f"{seconds} s"


def clock(at: datetime | None) -> str:
    """A local time for a person; '' for None."""
    if at is None:
        return ""
    # The first and the last day of the calendar have no local time in some zones.
    with suppress(OverflowError, ValueError, OSError):
        at = at.astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _safe(value: Any) -> Any:
    """A text without what must not reach a terminal; a table or a bar as it is."""
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
    raise TypeError(f"{type(value).__name__} is not JSON")
