"""Output of the demo: a progress bar, the streamed report, a table of the run."""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from skillfleet.contracts import ArtifactInfo, RunEvent, RunStatus

_PLAIN_STEPS = 10


class Screen:
    """Display of a run's events: live on a terminal, otherwise as plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("waiting for the worker", total=None)
        self._shown = -1

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, event: RunEvent) -> None:
        """Show one event."""
        match event.kind:
            case "progress":
                self._advance(**event.payload)
            case "text_delta":
                self._progress.stop()
                self._console.out(event.payload["text"], end="", highlight=False)
            case "error":
                self._console.print(f"[yellow]{event.payload['message']}[/]")

    def _advance(
        self, message: str, current: float | None = None, total: float | None = None
    ) -> None:
        self._progress.update(self._bar, description=message, completed=current or 0, total=total)
        if not self._console.is_terminal:
            self._advance_plainly(message, current, total)

    def _advance_plainly(self, message: str, current: float | None, total: float | None) -> None:
        if current is None or not total:
            self._console.out(message, highlight=False)
            return
        step = int(current * _PLAIN_STEPS / total)
        if step > self._shown:
            self._shown = step
            self._console.out(f"{message}: {current:g}/{total:g}", highlight=False)


def run_table(status: RunStatus, artifacts: list[ArtifactInfo], saved: Path | None) -> Table:
    """Build the table of the run and its artifacts."""
    table = Table(title=f"run {status.id}", show_header=False, title_justify="left")
    outcome = status.state if status.code in (None, "completed") else f"{status.state}: "
    if outcome != status.state:
        outcome += f"{status.message} [{status.code}]"
    table.add_row("state", outcome)
    table.add_row("attempts", str(len(status.attempts)))
    table.add_row("duration", _duration(status))
    table.add_row("events", f"{status.events:,}")
    table.add_row("child runs", f"{status.children:,}")
    for info in artifacts:
        where = saved / info.name if saved else Path(info.name)
        table.add_row("artifact", f"{where} ({info.mime_type}, {info.size_bytes:,} bytes)")
    return table


def _duration(status: RunStatus) -> str:
    if status.started_at is None or status.finished_at is None:
        return "never started"
    return f"{(status.finished_at - status.started_at).total_seconds():.2f} s"
