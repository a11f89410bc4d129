"""Display of runs (status, events, lists), and cancellation."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from skillfleet.contracts import SUPERSEDED_KIND, ReasonCode, RunEvent, RunState, RunStatus
from skillfleet_cli.events import describe
from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import (
    STATE_STYLES,
    Listing,
    age,
    clock,
    console,
    duration,
    pretty_json,
    print_json,
    styled,
)
from skillfleet_cli.transcript import Transcript
from skillfleet_ledger.stream_entries import event_number
from skillfleet_producer import AsyncFleet, AsyncRunHandle

_IMPLIED_BY_STATE = {ReasonCode.CANCELLED_BY_CALLER, ReasonCode.DEADLINE_EXCEEDED}
_MOST_PAGES = 200
"""The pages that a list reads before it prints what it has found."""
_MOST_SHOWN = 4000
"""Characters of a result that `status` shows without --json."""


async def show_status(run: AsyncRunHandle, *, as_json: bool) -> None:
    """Print a run's record, and its result if it succeeded."""
    status = await run.status()
    result = await run.result() if status.state is RunState.SUCCEEDED else None
    if as_json:
        print_json(status.model_dump(mode="json") | {"result": result})
        return
    show_record(status)
    if result is not None:
        terminal = console()
        shown = result if isinstance(result, str) else pretty_json(result)
        terminal.print()
        terminal.print(shown[:_MOST_SHOWN])
        if len(shown) > _MOST_SHOWN:
            terminal.print(f"… ({len(shown)} characters; --json prints all)")


def show_record(status: RunStatus) -> None:
    """Print a run's record as a list of facts, and its attempts if there were several."""
    facts = Listing("", "", header=False)
    for name, value in _facts(status).items():
        facts.add(styled((name, "bold")), value)
    facts.print()
    if len(status.attempts) > 1:
        console().print()
        _attempts(status).print()


async def print_events(
    fleet: AsyncFleet, run_id: str, after: str | None, *, follow: bool, as_json: bool
) -> None:
    """Print events after `after`, until the run ends or (without `follow`) the newest one."""
    try:
        position = event_number(after) if after is not None else 0
    except ValueError as error:
        raise CommandError(f"--after: {error}") from None
    newest = (await fleet.run(run_id).status()).events
    if not follow and position >= newest:
        return
    lines = EventLines()
    async for event in fleet.run(run_id).events(after):
        if as_json:
            print_json(event)
        else:
            lines.show(event)
        if not follow and event_number(event.id) >= newest:
            return


class EventLines:
    """Events as lines of their own. On a terminal, those that a later event voids are erased."""

    def __init__(self) -> None:
        self._console = console()
        terminal = sys.stdout.isatty() and self._console.is_interactive
        self._transcript = Transcript(terminal=terminal)

    def show(self, event: RunEvent) -> None:
        """Print the event's line."""
        if event.kind == SUPERSEDED_KIND:
            self._transcript.supersede(event)

        def show(in_line: bool) -> str:  # noqa: FBT001 - as `Show`
            del in_line
            line = _event_line(event)
            self._console.print(line)
            return f"{line.plain}\n"

        self._transcript.put(show, event)


async def cancel_run(run: AsyncRunHandle, reason: str | None, *, as_json: bool) -> None:
    """Cancel a run; one that has already ended is reported, not an error."""
    asked = await run.cancel(reason)
    status = await run.status()
    if as_json:
        print_json({"id": run.id, "cancelled": asked, "state": status.state})
    elif not asked:
        console().print(f"{run.id} had already ended: {status.state}")
    elif status.state is RunState.CANCELLED:
        console().print(f"{run.id} cancelled")
    else:
        console().print(f"{run.id} is being cancelled")


async def list_runs(
    fleet: AsyncFleet,
    conditions: Mapping[str, Any],
    limit: int,
    cursor: str | None,
    *,
    as_json: bool,
) -> None:
    """Print runs, newest first, and the cursor of further ones."""
    found, cursor = await _find(fleet, conditions, limit, cursor)
    if as_json:
        print_json(found)
    elif found or cursor is None:
        _print_runs(found)
    if cursor is not None:
        console(stderr=True).print(f"more runs: --cursor {cursor}")


async def _find(
    fleet: AsyncFleet, conditions: Mapping[str, Any], limit: int, cursor: str | None
) -> tuple[list[RunStatus], str | None]:
    """Return runs of as many pages as it takes, and where to go on.

    A page may hold few runs, or none, where most that it read do not meet the conditions.
    """
    found: list[RunStatus] = []
    try:
        for _ in range(_MOST_PAGES):
            page = await fleet.runs(**conditions, limit=limit - len(found), after=cursor)
            found += page
            cursor = page.cursor
            if cursor is None or len(found) == limit:
                break
    except ValueError as error:
        raise CommandError(f"--cursor: {error}") from None
    return found, cursor


def _print_runs(found: Sequence[RunStatus]) -> None:
    if not found:
        console(stderr=True).print("no runs")
        return
    print_runs(found)


def print_runs(found: Sequence[RunStatus], *, of_session: bool = False) -> None:
    """Print a table of runs, with their sessions (unless they are all of one) and tags, if any."""
    now = datetime.now(UTC)
    columns: dict[str, list[Any]] = {
        "RUN": [run.id for run in found],
        "SKILL": [run.name for run in found],
        "STATE": [state_text(run) for run in found],
        "ATTEMPT": [str(run.attempt) for run in found],
        "AGE": [age(now - run.created_at) for run in found],
        "TOOK": [duration(took(run)) for run in found],
    }
    if not of_session and any(run.session for run in found):
        columns["SESSION"] = [run.session or "" for run in found]
    if any(run.tags for run in found):
        columns["TAGS"] = [tags_of(run) for run in found]
    columns["REASON"] = [reason_of(run) for run in found]
    listed = Listing(*columns)
    for row in zip(*columns.values(), strict=True):
        listed.add(*row)
    listed.print()


def state_text(status: RunStatus) -> Text:
    """Return a run's state in its colour, with what it waits for."""
    waits = f" ({', '.join(dict.fromkeys(status.waits))})" if status.waits else ""
    return styled((f"{status.state.value}{waits}", STATE_STYLES[status.state]))


def tags_of(status: RunStatus) -> str:
    """Return a run's tags in one line."""
    return ", ".join(f"{key}={value}" for key, value in status.tags.items())


def took(status: RunStatus) -> float | None:
    """Return the seconds from the run's first start to its end; None before both are known."""
    if status.started_at is None or status.finished_at is None:
        return None
    return (status.finished_at - status.started_at).total_seconds()


def reason_of(status: RunStatus) -> str:
    """Return the reason for a run's state in one short line; '' if the state says it all."""
    if status.state is RunState.SUCCEEDED:
        return ""
    if not status.state.terminal:
        if status.cancel_requested:
            return f"cancel requested: {status.cancel_requested}"
        return f"held: {status.held}" if status.held else ""
    code = "" if status.code in _IMPLIED_BY_STATE else status.code or ""
    return ": ".join(part for part in (code, (status.message or "").partition("\n")[0]) if part)


def _facts(status: RunStatus) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run": status.id,
        "skill": status.name,
        "state": state_text(status),
        "parked": "yes: no worker holds it" if status.parked else "",
        "reason": reason_of(status),
        "attempts": f"{status.attempt}" + (f" ({status.retries} retried)" * bool(status.retries)),
        "worker": status.worker,
        "queue": status.queue,
        "session": status.session,
        "created": clock(status.created_at),
        "started": clock(status.started_at),
        "finished": clock(status.finished_at),
        "took": duration(took(status)),
        "due": clock(status.due_at) if status.state is RunState.QUEUED else "",
        "deadline": clock(status.deadline),
        "events": str(status.events),
        "children": str(status.children or ""),
        "parent": status.parent_id,
        "fork of": status.fork_of,
        "trace": status.trace_id,
        "tags": tags_of(status),
    }
    return {name: value for name, value in facts.items() if value}


def _attempts(status: RunStatus) -> Listing:
    listed = Listing("ATTEMPT", "OUTCOME", "STARTED", "TOOK", "WORKER")
    for attempt in status.attempts:
        span = attempt.ended_at - attempt.started_at if attempt.ended_at is not None else None
        listed.add(
            str(attempt.number),
            attempt.outcome or "running",
            clock(attempt.started_at),
            duration(span),
            attempt.worker,
        )
    return listed


def _event_line(event: RunEvent) -> Text:
    at = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    style = STATE_STYLES[event.state] if event.state is not None else ""
    return styled((f"{event.id:>7}  {at}  ", "dim"), (describe(event), style))
