"""Waterfall view of a run's tree, from the ledger alone."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from rich.text import Text

from skillfleet.contracts import RunEvent, RunStatus
from skillfleet.errors import UnknownRunError
from skillfleet.printable import printable_line
from skillfleet_cli.events import describe
from skillfleet_cli.output import STATE_STYLES, Listing, console, duration, print_json, styled
from skillfleet_ledger.streams import event_number
from skillfleet_producer import AsyncFleet

_BAR = 40
"""Columns of the widest bar."""
_MOST_RUNS = 500
"""Most runs that one tree shows, whatever the options say."""
_MOST_EVENTS = 2000
"""Most events that are read of one run."""


@dataclass(frozen=True)
class Bounds:
    """Limits of a large tree: calls shown for each run, and lines of events."""

    children: int = 10
    events: int = 12


@dataclass
class Node:
    """A run of the tree; `hidden` holds calls that are only counted."""

    status: RunStatus
    events: list[RunEvent] = field(default_factory=list)
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
    """Read a run's events; returns the runs that it called."""
    run_id, newest = node.status.id, node.status.events
    if newest:
        async for batch in fleet.run(run_id).event_batches():
            node.events += batch
            if event_number(batch[-1].id) >= newest or len(node.events) >= _MOST_EVENTS:
                break
    if not node.status.children:
        return []
    ids = await fleet.run(run_id).children()
    found = await asyncio.gather(*(_status(fleet, child) for child in ids))
    return [status for status in found if status is not None]


async def _status(fleet: AsyncFleet, run_id: str) -> RunStatus | None:
    try:
        return await fleet.run(run_id).status()
    except UnknownRunError:
        return None


def _took(status: RunStatus) -> timedelta:
    return (status.finished_at or datetime.now(UTC)) - status.created_at


class _Waterfall:
    """A table of name, start, duration and bar, on the time scale of the whole tree."""

    def __init__(self, root: Node, bounds: Bounds) -> None:
        self._root = root
        self._bounds = bounds
        self._began = root.status.created_at
        self._span = max((node.end for node in _all(root)), default=root.end) - self._began
        self._rows = Listing("run", "state", "at", "took", "")

    def print(self) -> None:
        """Print the table on stdout."""
        status = self._root.status
        console().print(f"trace {status.trace_id or '-'}  took {duration(self._span)}")
        self._add(self._root, "", "")
        self._rows.print()

    def _add(self, node: Node, lead: str, indent: str) -> None:
        status = node.status
        style = STATE_STYLES[status.state]
        self._rows.add(
            styled((lead, "dim"), (status.name, "bold")),
            Text(status.state, style),
            self._at(status.created_at),
            duration(_took(status)),
            self._bar(status, style),
        )
        below: list[_Line | Node | list[RunStatus]] = [
            *self._attempts(status),
            *self._events(node),
            *node.children,
            *([node.hidden] if node.hidden else []),
        ]
        for number, each in enumerate(below, start=1):
            last = number == len(below)
            branch, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
            if isinstance(each, Node):
                self._add(each, indent + branch, indent + deeper)
            elif isinstance(each, list):
                self._add_hidden(each, indent + branch)
            else:
                self._add_line(each, indent + branch)

    def _add_line(self, line: "_Line", lead: str) -> None:
        name = styled((lead, "dim"), printable_line(line.text)[:_LONGEST])
        took = duration(line.took) if line.took is not None else ""
        self._rows.add(name, line.state, self._at(line.at), took, self._mark(line.at))

    def _add_hidden(self, runs: list[RunStatus], lead: str) -> None:
        """Add one row for the calls that are not shown."""
        counts = Counter(f"{run.name} {run.state}" for run in runs)
        text = ", ".join(f"{count} x {what}" for what, count in counts.most_common(4))
        shortest, longest = _took(runs[-1]), _took(runs[0])
        name = styled((lead, "dim"), printable_line(f"… {text}")[:_LONGEST])
        took = f"{duration(shortest)} to {duration(longest)}"
        self._rows.add(name, "", "", took, "")

    def _attempts(self, status: RunStatus) -> Iterator["_Line"]:
        if len(status.attempts) < 2:  # noqa: PLR2004 - one attempt is the run itself
            return
        for attempt in status.attempts:
            took = attempt.ended_at - attempt.started_at if attempt.ended_at else None
            text = f"attempt {attempt.number} on {attempt.worker}"
            yield _Line(text, attempt.started_at, attempt.outcome or "running", took)

    def _events(self, node: Node) -> Iterator["_Line"]:
        """Group consecutive events of one kind into one line; state events are left out."""
        shown = [event for event in node.events if event.kind != "state"]
        groups = [list(group) for _, group in groupby(shown, key=lambda event: event.kind)]
        for group in groups[: self._bounds.events]:
            first, last = group[0], group[-1]
            if len(group) == 1:
                yield _Line(describe(first), first.at)
            else:
                yield _Line(f"{first.kind} x {len(group)}", first.at, took=last.at - first.at)
        if len(groups) > self._bounds.events:
            rest = sum(map(len, groups[self._bounds.events :]))
            if rest:
                yield _Line(f"… {rest} more events", groups[self._bounds.events][0].at)

    def _at(self, moment: datetime) -> str:
        return f"+{duration(max(moment - self._began, timedelta()))}"

    def _column(self, moment: datetime) -> int:
        if not self._span:
            return 0
        return min(max(int((moment - self._began) / self._span * _BAR), 0), _BAR - 1)

    def _bar(self, status: RunStatus, style: str) -> Text:
        begin = self._column(status.created_at)
        end = self._column(status.finished_at or datetime.now(UTC)) + 1
        started = status.attempts[0].started_at if status.attempts else status.finished_at
        work = min(self._column(started), end - 1) if started else end
        bar = Text(" " * begin)
        bar.append("░" * (work - begin), "dim")
        bar.append("█" * (end - work), style)
        return bar

    def _mark(self, moment: datetime) -> Text:
        return Text(" " * self._column(moment) + "·", "dim")


_LONGEST = 72
"""Most characters of a row's name."""


@dataclass(frozen=True)
class _Line:
    """A row for an attempt or an event."""

    text: str
    at: datetime
    state: str = ""
    took: timedelta | None = None


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _all(child)


def _as_json(node: Node) -> dict[str, Any]:
    return {
        "run": node.status.model_dump(mode="json"),
        "events": [event.model_dump(mode="json") for event in node.events],
        "children": [_as_json(child) for child in node.children],
        "not_shown": len(node.hidden),
    }
