"""Waterfall view of a run's tree, from the ledger alone."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rich.text import Text

from skillfleet.contracts import RecordedStep, RunEvent, RunStatus
from skillfleet.errors import UnknownRunError
from skillfleet.printable import printable_line
from skillfleet_cli.output import STATE_STYLES, Listing, console, duration, print_json, styled
from skillfleet_cli.trace_lines import Bounds, Line, RunLines, TracedWait, waits_of
from skillfleet_ledger.stream_entries import event_number
from skillfleet_producer import AsyncFleet

_BAR = 40
"""Columns of the widest bar."""
_GAP = 2
"""Columns between two cells."""
_SHORTEST = 20
"""Columns of a name that a narrow terminal leaves."""
_MOST_RUNS = 500
"""Most runs that one tree shows, whatever the options say."""
_MOST_EVENTS = 2000
"""Most events that are read of one run."""


@dataclass
class Node:
    """A run of the tree; `hidden` holds calls that are only counted."""

    status: RunStatus
    events: list[RunEvent] = field(default_factory=list)
    steps: list[RecordedStep] = field(default_factory=list)
    waits: list[TracedWait] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)
    hidden: list[RunStatus] = field(default_factory=list)

    @property
    def end(self) -> datetime:
        """The end time, or now."""
        return self.status.finished_at or datetime.now(UTC)


async def show_trace(fleet: AsyncFleet, run_id: str, bounds: Bounds, *, as_json: bool) -> None:
    """Print the tree of a run. Raises UnknownRunError."""
    root = Node(await fleet.run(run_id).status())
    await _grow(fleet, root, bounds)
    if as_json:
        print_json(_as_json(root))
        return
    _Waterfall(root, bounds).print()


async def _grow(fleet: AsyncFleet, root: Node, bounds: Bounds) -> None:
    """Read the root's descendants, level by level."""
    level, shown = [root], 1
    while level:
        below = await asyncio.gather(*(_read(fleet, node) for node in level))
        for node, calls in zip(level, below, strict=True):
            room = min(bounds.children, _MOST_RUNS - shown)
            slowest = sorted(calls, key=_took, reverse=True)
            chosen = sorted(slowest[:room], key=lambda status: status.created_at)
            node.children = [Node(status) for status in chosen]
            node.hidden = slowest[room:]
            shown += len(chosen)
        level = [child for node in level for child in node.children]


async def _read(fleet: AsyncFleet, node: Node) -> list[RunStatus]:
    """Read a run's events, steps and waits; returns the runs that it called."""
    run, newest = fleet.run(node.status.id), node.status.events
    if newest:
        async for batch in run.event_batches():
            node.events += batch
            if event_number(batch[-1].id) >= newest or len(node.events) >= _MOST_EVENTS:
                break
    with suppress(UnknownRunError):
        node.steps = await run.steps()
        still_open = await run.waits() if node.status.waits else []
        node.waits = waits_of(node.status, node.events, still_open)
    if not node.status.children:
        return []
    ids = await run.children()
    found = await asyncio.gather(*(_status(fleet, child) for child in ids))
    return [status for status in found if status is not None]


async def _status(fleet: AsyncFleet, run_id: str) -> RunStatus | None:
    try:
        return await fleet.run(run_id).status()
    except UnknownRunError:
        return None


def _took(status: RunStatus) -> timedelta:
    return (status.finished_at or datetime.now(UTC)) - status.created_at


class _Row(NamedTuple):
    """A row of the table; `bar` draws in the columns that are left for it."""

    name: Text
    state: Text | str
    at: str
    took: str
    bar: Callable[[], Text]


class _Waterfall:
    """A table of name, start, duration and bar, on the time scale of the whole tree."""

    def __init__(self, root: Node, bounds: Bounds) -> None:
        self._root = root
        self._bounds = bounds
        self._began = root.status.created_at
        self._span = max((node.end for node in _all(root)), default=root.end) - self._began
        self._rows: list[_Row] = []
        self._columns = _BAR

    def print(self) -> None:
        """Print the table on stdout; on a narrow terminal names and bars are shorter."""
        status = self._root.status
        terminal = console()
        terminal.print(f"trace {status.trace_id or '-'}  took {duration(self._span)}")
        self._add(self._root, "", "")
        rows = Listing("run", "state", "at", "took", "")
        longest = max(row.name.cell_len for row in self._rows)
        fixed = sum(
            max(map(len, (title, *(str(cell) for cell in cells)))) + _GAP
            for title, cells in zip(
                ("state", "at", "took"),
                zip(*((row.state, row.at, row.took) for row in self._rows), strict=True),
                strict=True,
            )
        )
        room = terminal.width - fixed - _GAP
        widest = max(_SHORTEST, min(longest, room - min(_BAR, room // 3)))
        self._columns = min(_BAR, max(1, room - widest))
        for row in self._rows:
            row.name.truncate(widest, overflow="ellipsis")
            rows.add(row.name, row.state, row.at, row.took, row.bar())
        rows.print()

    def _add(self, node: Node, lead: str, indent: str) -> None:
        status = node.status
        style = STATE_STYLES[status.state]
        self._rows.append(
            _Row(
                styled((lead, "dim"), (status.name, "bold")),
                Text(status.state, style),
                self._at(status.created_at),
                duration(_took(status)),
                lambda: self._bar(status, style),
            )
        )
        lines = RunLines(status, node.events, node.steps, node.waits)
        below: list[Line | Node | list[RunStatus]] = [
            *lines.all(self._bounds, datetime.now(UTC)),
            *node.children,
            *([node.hidden] if node.hidden else []),
        ]
        self._add_below(below, indent)

    def _add_below(self, rows: Sequence["Line | Node | list[RunStatus]"], indent: str) -> None:
        for number, each in enumerate(rows, start=1):
            last = number == len(rows)
            branch, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
            if isinstance(each, Node):
                self._add(each, indent + branch, indent + deeper)
            elif isinstance(each, list):
                self._add_hidden(each, indent + branch)
            else:
                self._add_line(each, indent + branch)
                self._add_below(each.below, indent + deeper)

    def _add_line(self, line: Line, lead: str) -> None:
        name = styled((lead, "dim"), printable_line(line.text)[:_LONGEST])
        took = duration(line.took) if line.took is not None else ""
        self._rows.append(_Row(name, line.state, self._at(line.at), took, lambda: self._mark(line)))

    def _add_hidden(self, runs: list[RunStatus], lead: str) -> None:
        """Add one row for the calls that are not shown."""
        counts = Counter(f"{run.name} {run.state}" for run in runs)
        text = ", ".join(f"{count} x {what}" for what, count in counts.most_common(4))
        shortest, longest = _took(runs[-1]), _took(runs[0])
        name = styled((lead, "dim"), printable_line(f"… {text}")[:_LONGEST])
        took = f"{duration(shortest)} to {duration(longest)}"
        self._rows.append(_Row(name, "", "", took, Text))

    def _at(self, moment: datetime) -> str:
        return f"+{duration(max(moment - self._began, timedelta()))}"

    def _column(self, moment: datetime) -> int:
        if not self._span:
            return 0
        columns = self._columns
        return min(max(int((moment - self._began) / self._span * columns), 0), columns - 1)

    def _bar(self, status: RunStatus, style: str) -> Text:
        """Draw a run: time in a worker, and time in the queue or without one."""
        begin, now = self._column(status.created_at), datetime.now(UTC)
        end = self._column(status.finished_at or now) + 1
        worked = {
            column
            for attempt in status.attempts
            for column in range(
                self._column(attempt.started_at),
                self._column(attempt.ended_at or status.finished_at or now) + 1,
            )
        }
        bar = Text(" " * begin)
        for column in range(begin, end):
            bar.append(*(("█", style) if column in worked else ("░", "dim")))
        return bar

    def _mark(self, line: Line) -> Text:
        begin = self._column(line.at)
        length = self._column(line.at + line.took) - begin + 1 if line.took is not None else 1
        return Text(" " * begin + line.mark * (1 if line.mark == "·" else length), "dim")


_LONGEST = 72
"""Most characters of a row's name."""


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _all(child)


def _as_json(node: Node) -> dict[str, Any]:
    return {
        "run": node.status.model_dump(mode="json"),
        "steps": [step.model_dump(mode="json") for step in node.steps],
        "waits": [wait.model_dump(mode="json") for wait in node.waits],
        "events": [event.model_dump(mode="json") for event in node.events],
        "children": [_as_json(child) for child in node.children],
        "not_shown": len(node.hidden),
    }
