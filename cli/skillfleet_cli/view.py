"""Views of a followed run: JSON lines, plain lines, or a live progress bar.

Text deltas and the result go to stdout, everything else to stderr: a pipe receives only the
skill's own output.
"""

import sys
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from skillfleet.contracts import (
    SUPERSEDED_KIND,
    TEXT_DELTA_KIND,
    WAIT_KIND,
    RunEvent,
    RunState,
    RunStatus,
    WaitKind,
)
from skillfleet.printable import printable_line
from skillfleet_cli.events import answer_hint, count_text, describe, progress_text
from skillfleet_cli.output import (
    STATE_STYLES,
    console,
    duration,
    number,
    pretty_json,
    print_json,
    styled,
    words,
    write_text,
)
from skillfleet_cli.runs import reason_of, took
from skillfleet_cli.transcript import Transcript

_ANSWERED = (WaitKind.ASK, WaitKind.GRANT)
"""The waits that a person ends."""


class View(Protocol):
    """The display of a followed run; called in order, from one thread."""

    def start(self, run_id: str) -> None:
        """Show that the run was accepted."""

    def show(self, event: RunEvent) -> None:
        """Show the run's next event."""

    def note(self, text: str) -> None:
        """Show a note to the user."""

    def finish(self, status: RunStatus, value: Any) -> None:
        """Show the run's end; `value` is its result if it succeeded."""

    def close(self) -> None:
        """Release the terminal; also called after an error."""


def view_for(*, as_json: bool) -> View:
    """Choose the view for the kind of output."""
    if as_json:
        return JsonView()
    if sys.stdout.isatty() and Console(stderr=True).is_interactive:
        return LiveView()
    return PlainView()


class JsonView:
    """One JSON object per line: the id, each event, and last the run's status and result."""

    def start(self, run_id: str) -> None:
        """Print the id."""
        print_json({"id": run_id})

    def show(self, event: RunEvent) -> None:
        """Print the event."""
        print_json(event)

    def note(self, text: str) -> None:
        """Print the note on stderr: stdout carries JSON only."""
        console(stderr=True).print(styled(text))

    def finish(self, status: RunStatus, value: Any) -> None:
        """Print the status with the result."""
        print_json(status.model_dump(mode="json") | {"result": value})

    def close(self) -> None:
        """Do nothing: no resource is open."""


class PlainView:
    """Text as it arrives, and one line for everything else."""

    def __init__(self, *, redraws: bool = False) -> None:
        self._console = console(stderr=True)
        self._redraws = redraws
        self._transcript = Transcript(terminal=redraws)
        self._run_id = ""

    def start(self, run_id: str) -> None:
        """Print the run's id."""
        self._run_id = run_id
        self._line(f"run {run_id}", "dim")

    def show(self, event: RunEvent) -> None:
        """Print a piece of text, or a line; `finish` reports the end."""
        if event.kind == TEXT_DELTA_KIND:
            self._write(words(event.payload.get("text")), event)
        elif event.kind == SUPERSEDED_KIND:
            self._supersede(event)
        elif not event.final:
            self._line(describe(event), "red" if event.kind == "error" else "dim", event)
        if event.kind == WAIT_KIND and event.payload.get("kind") in _ANSWERED:
            self._line(answer_hint(self._run_id, event.payload), "yellow", event)

    def note(self, text: str) -> None:
        """Print a line."""
        self._line(text, "yellow")

    def finish(self, status: RunStatus, value: Any) -> None:
        """Print the result, then how the run ended."""
        self._end_line()
        if value is not None:
            self._write((value if isinstance(value, str) else pretty_json(value)) + "\n")
        self._line(_ending(status), STATE_STYLES[status.state])
        if status.state is not RunState.SUCCEEDED:
            self._line(f"more: skillfleet status {status.id}", "dim")

    def close(self) -> None:
        """End an unfinished line."""
        self._end_line()

    @property
    def _in_line(self) -> bool:
        return self._transcript.in_line

    def _supersede(self, event: RunEvent) -> None:
        """Take the text of an unfinished step back; else mark it, where the text itself is."""
        if not self._transcript.supersede(event):
            self._end_line()
            self._write(f"[{describe(event)}]\n")

    def _write(self, text: str, event: RunEvent | None = None) -> None:
        def show(in_line: bool) -> str:  # noqa: FBT001 - as `Show`
            del in_line
            return write_text(text)

        self._transcript.put(show, event)

    def _end_line(self) -> None:
        def show(in_line: bool) -> str:  # noqa: FBT001 - as `Show`
            return write_text("\n") if in_line else ""

        self._transcript.put(show)

    def _line(self, text: str, style: str, event: RunEvent | None = None) -> None:
        def show(in_line: bool) -> str:  # noqa: FBT001 - as `Show`
            end = write_text("\n") if in_line else ""
            line = styled((text, style))
            self._console.print(line)
            return f"{end}{line.plain}\n"

        # In a pipe, lines are on another stream than the text: only the text needs a marker.
        self._transcript.put(show, event if self._redraws else None)


def _ending(status: RunStatus) -> str:
    parts = [status.state.value]
    if (seconds := took(status)) is not None:
        parts.append(f"after {duration(seconds)}")
    if status.attempt > 1:
        parts.append(f"in attempt {status.attempt}")
    reason = reason_of(status)
    return " ".join(parts) + (f": {reason}" if reason else "")


class LiveView(PlainView):
    """A progress bar below the run's output, for terminals."""

    def __init__(self) -> None:
        super().__init__(redraws=True)
        # soft_wrap would let a bar run over the terminal's edge.
        terminal = console(stderr=True, soft_wrap=False)
        self._bar = Progress(
            SpinnerColumn("line" if terminal.options.ascii_only else "dots"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=terminal,
            transient=True,
        )
        self._task = self._bar.add_task("queued", total=None, count="")

    def start(self, run_id: str) -> None:
        """Print the run's id and show the bar."""
        super().start(run_id)
        self._bar.start()

    def show(self, event: RunEvent) -> None:
        """Advance the bar, or print above it."""
        if event.kind == "progress":
            self._progress(event.payload)
        elif event.state is RunState.RUNNING:
            self._bar.update(self._task, description="running")
        elif event.state is RunState.WAITING:
            self._bar.update(self._task, description=describe(event))
        else:
            self._lower()
            super().show(event)
        if not event.final and not self._in_line:
            self._bar.start()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._lower()
        super().note(text)

    def finish(self, status: RunStatus, value: Any) -> None:
        """Remove the bar and report the end."""
        self._lower()
        super().finish(status, value)

    def close(self) -> None:
        """Remove the bar."""
        self._lower()
        super().close()

    def _progress(self, payload: dict[str, Any]) -> None:
        current, total = number(payload.get("current")), number(payload.get("total"))
        if current is None or total is None or total <= 0:
            text, current, total, count = progress_text(payload), 0, None, ""
        else:
            text, count = words(payload.get("message")), count_text(current, total)
        # One line: rich clears the bar by its height.
        text, count = printable_line(text), printable_line(count)
        self._bar.update(self._task, description=text, completed=current, total=total, count=count)

    def _lower(self) -> None:
        """Clear the bar from the terminal, so that text can take its place."""
        self._bar.stop()
