"""Rows of a traced run below its own: attempts, what they recorded, waits and events."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict

from skillfleet.contracts import (
    STATE_KIND,
    WAIT_ENDED_KIND,
    WAIT_KIND,
    Attempt,
    EntryKind,
    RecordedStep,
    RunEvent,
    RunStatus,
    Wait,
)
from skillfleet_cli.events import describe
from skillfleet_cli.output import words

_MOST_QUESTION_CHARS = 44
_NOT_LISTED = (STATE_KIND, WAIT_KIND, WAIT_ENDED_KIND)
_SPANS = "─"
_WAITS = "┄"


@dataclass(frozen=True)
class Bounds:
    """Limits of a large tree: calls shown for each run, and lines of events and of entries."""

    children: int = 10
    events: int = 12
    steps: int = 20


class TracedWait(BaseModel):
    """A wait of the run: `ended_at` and what follows are of its end."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str
    name: str
    question: str
    attempt: int
    opened_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    by: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Line:
    """A row; `mark` draws its time in the bars' column."""

    text: str
    at: datetime
    state: str = ""
    took: timedelta | None = None
    mark: str = "·"
    below: list["Line"] = field(default_factory=list)


def waits_of(
    status: RunStatus, events: Iterable[RunEvent], still_open: Iterable[Wait]
) -> list[TracedWait]:
    """Return a run's waits in the order of their opening.

    Timers and calls have no events: of these, only the open ones are here, the others are entries.
    """
    opened: dict[str, RunEvent] = {}
    ended: dict[str, RunEvent] = {}
    for event in events:
        if event.kind == WAIT_KIND:
            opened.setdefault(words(event.payload.get("id")), event)
        elif event.kind == WAIT_ENDED_KIND:
            ended[words(event.payload.get("id"))] = event
    found = [_traced(wait_id, event, ended.get(wait_id)) for wait_id, event in opened.items()]
    found += [
        TracedWait(
            id=each.id,
            kind=each.kind,
            name=each.name,
            question=each.question,
            attempt=status.attempt,
            opened_at=each.opened_at,
        )
        for each in still_open
        if each.id not in opened
    ]
    return sorted(found, key=lambda wait: wait.opened_at)


def _traced(wait_id: str, event: RunEvent, end: RunEvent | None) -> TracedWait:
    def text(payload: dict[str, Any], name: str) -> str:
        return words(payload.get(name))

    final = {} if end is None else end.payload
    return TracedWait(
        id=wait_id,
        kind=text(event.payload, "kind"),
        name=text(event.payload, "name"),
        question=text(event.payload, "question"),
        attempt=event.attempt,
        opened_at=event.at,
        ended_at=None if end is None else end.at,
        outcome=text(final, "outcome") or None,
        by=text(final, "by") or None,
        reason=text(final, "reason") or None,
    )


class RunLines:
    """All rows of one run but those of the runs that it called."""

    def __init__(
        self,
        status: RunStatus,
        events: list[RunEvent],
        steps: list[RecordedStep],
        waits: list[TracedWait],
    ) -> None:
        self._status = status
        self._events = events
        self._steps = steps
        self._waits = waits

    def all(self, bounds: Bounds, now: datetime) -> Iterator[Line]:
        """Yield the rows: attempts with what is recorded in each, then events."""
        recorded: dict[int, list[Line]] = {}
        for attempt, line in self._recorded(now):
            recorded.setdefault(attempt, []).append(line)
        several = len(self._status.attempts) > 1
        for each in self._status.attempts:
            lines = sorted(recorded.pop(each.number, []), key=lambda line: line.at)
            below = [*self._replayed(each), *_bounded(lines, bounds.steps)]
            if not several:
                yield from below
                continue
            took = each.ended_at - each.started_at if each.ended_at else None
            text = f"attempt {each.number} on {each.worker}"
            yield Line(text, each.started_at, each.outcome or "running", took, "█", below)
        # Those of attempts that the record does not keep.
        for lines in recorded.values():
            yield from _bounded(lines, bounds.steps)
        yield from self._event_lines(bounds.events)

    def _recorded(self, now: datetime) -> Iterator[tuple[int, Line]]:
        """Yield waits, and the entries that are not the ends of these; with their attempts."""
        own = [step for step in self._steps if not self._is_copied(step)]
        for wait in self._waits:
            if (end := _end_of(wait, own)) is not None:
                own.remove(end)
            yield wait.attempt, _wait_line(wait, now, ended=self._status.state.terminal)
        for step in own:
            yield self._attempt_of(step), _step_line(step)

    def _is_copied(self, step: RecordedStep) -> bool:
        """True for an entry that a fork has from another run."""
        return _end(step) < self._status.created_at

    def _attempt_of(self, step: RecordedStep) -> int:
        """Return the attempt in which an entry began; a later one may have ended it."""
        if step.kind is EntryKind.STEP:
            return step.attempt
        earlier = [
            attempt.number
            for attempt in self._status.attempts
            if attempt.number <= step.attempt and attempt.started_at <= step.started_at
        ]
        return max(earlier, default=step.attempt)

    def _replayed(self, attempt: Attempt) -> Iterator[Line]:
        """Yield a row for what an attempt did not execute again."""
        names = [
            step.name
            for step in self._steps
            if self._is_copied(step) or step.attempt < attempt.number
        ]
        if names:
            named = ", ".join(
                name.partition("\n")[0] if count == 1 else f"{count} x {name}"
                for name, count in ((name, len(list(same))) for name, same in groupby(names))
            )
            yield Line(f"{len(names)} recorded: {named}", attempt.started_at, "replayed")

    def _event_lines(self, most: int) -> Iterator[Line]:
        """Group consecutive events of one kind into one row."""
        shown = [event for event in self._events if event.kind not in _NOT_LISTED]
        groups = [list(group) for _, group in groupby(shown, key=lambda event: event.kind)]
        for group in groups[:most]:
            first, last = group[0], group[-1]
            if len(group) == 1:
                yield Line(describe(first), first.at)
            else:
                yield Line(f"{first.kind} x {len(group)}", first.at, took=last.at - first.at)
        if len(groups) > most:
            rest = sum(map(len, groups[most:]))
            yield Line(f"… {rest} more events", groups[most][0].at)


def _bounded(lines: list[Line], most: int) -> Iterator[Line]:
    yield from lines[:most]
    if len(lines) > most:
        yield Line(f"… {len(lines) - most} more steps", lines[most].at)


def _step_line(step: RecordedStep) -> Line:
    details = [*([step.code] if step.code else []), *([f"try {step.tries}"] * (step.tries > 1))]
    text = f"{step.kind} {_short(step.name)}" + (f" ({', '.join(details)})" if details else "")
    took = timedelta(seconds=step.duration_seconds)
    mark = _SPANS if step.kind in (EntryKind.STEP, EntryKind.CALL) else _WAITS
    return Line(text, step.started_at, step.outcome, took, mark)


def _wait_line(wait: TracedWait, now: datetime, *, ended: bool) -> Line:
    text = f"{wait.kind} {wait.id}: {_short(wait.question or wait.name)}"
    details = [part for part in (f"by {wait.by}" if wait.by else "", wait.reason or "") if part]
    if details:
        text += f" ({', '.join(details)})"
    state = wait.outcome or ("left open" if ended else "open")
    took = None if ended and wait.ended_at is None else (wait.ended_at or now) - wait.opened_at
    return Line(text, wait.opened_at, state, took, _WAITS)


def _end_of(wait: TracedWait, steps: list[RecordedStep]) -> RecordedStep | None:
    """Return the entry that ended a wait: of its kind, the one that was recorded at that time."""
    ended = wait.ended_at
    if ended is None:
        return None
    of_kind = [step for step in steps if step.kind == wait.kind]
    return min(of_kind, key=lambda step: abs(_end(step) - ended), default=None)


def _end(step: RecordedStep) -> datetime:
    return step.started_at + timedelta(seconds=step.duration_seconds)


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _MOST_QUESTION_CHARS else f"{line[: _MOST_QUESTION_CHARS - 1]}…"
